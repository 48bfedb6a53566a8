(function (script, run) {
  const box = script && script.parentElement, image = box && box.querySelector("img");
  if (!image) return;
  box.querySelectorAll("p").forEach((hint) => hint.remove());
  // JupyterLab gives the image its real address only after scripts have run.
  const load = async (tries) => {
    if (image.src.startsWith("data:")) return;
    try {
      const url = new URL(image.src);
      url.pathname = url.pathname.replace(/\.png$/, ".js");
      const page = await fetch(url, { cache: "no-store" });
      if (!page.ok) throw page.status;
      (0, eval)(await page.text())(image, run);
    } catch {
      if (tries) setTimeout(load, 300, tries - 1);
      else if (!image.naturalWidth) image.replaceWith("The curves of training are in " + image.getAttribute("src"));
    }
  };
  setTimeout(load, 100, 9);
})
