"""What a notebook has to reach, from xtask/checks.json. The cells themselves assert nothing: they are for readers.

    {"01_cifar10_vgg": [{"cell_output": "test accuracy (0\\\\.\\\\d+)", "quick_at_least": 0.3, "full_at_least": 0.9}]}

`cell_output` is a regular expression with one group. It is searched in the text of all outputs. At least one number has
to be found, unless `"if_found": true`, and every number found has to reach the bound: `quick_at_least` in a quick run,
`full_at_least` in a complete one. If that bound is missing, the entry is not checked.
"""

import re

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MARKUP = re.compile(r"<style.*?</style>|<script.*?</script>|<[^>]*>", re.DOTALL)


def problems(checks, notebook, quick):
    """One sentence for each check that failed."""
    text = "\n".join(output_text(output) for cell in notebook.cells for output in cell.get("outputs", []))
    found = (problem(check, text, "quick_at_least" if quick else "full_at_least") for check in checks)
    return [sentence for sentence in found if sentence]


def problem(check, text, bound):
    unknown = set(check) - {"cell_output", "quick_at_least", "full_at_least", "if_found"}
    if unknown:
        return f"checks.json has an unknown key: {', '.join(sorted(unknown))}"
    pattern = check["cell_output"]
    if re.compile(pattern).groups != 1:
        return f"`{pattern}` in checks.json needs exactly one group, the number"
    if bound not in check:
        return None
    numbers = [float(number.replace(",", "")) for number in re.findall(pattern, text)]
    if not numbers:
        return None if check.get("if_found") else f"no output matches `{pattern}`"
    # Written so that NaN fails.
    low = [number for number in numbers if not number >= check[bound]]
    return f"`{pattern}` is {low[0]}, and has to be at least {check[bound]}" if low else None


def output_text(output):
    data = output.get("data", {})
    parts = [output.get("text", ""), data.get("text/plain", ""), MARKUP.sub(" ", data.get("text/html", ""))]
    return ESCAPES.sub("", "\n".join(parts))
