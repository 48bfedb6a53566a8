(function (script) {
  const image = script && script.parentElement && script.parentElement.querySelector("img");
  if (!image) return;
  script.parentElement.querySelectorAll("p").forEach((hint) => hint.remove());
  let address, size, idle = 0;
  const look = async () => {
    // JupyterLab gives the image its real address only after scripts have run.
    if (image.src.startsWith("data:")) return;
    if (!address && image.naturalWidth) address = image.src;
    try {
      const answer = address && (await fetch(address, { cache: "no-store" }));
      const file = answer && answer.ok && (await answer.blob());
      if (file && file.size !== size) {
        if (size) {
          URL.revokeObjectURL(image.src);
          image.src = URL.createObjectURL(file);
        }
        [size, idle] = [file.size, 0];
      }
    } catch {
      // The server may come back.
    }
    if (++idle < 900) setTimeout(look, 1000);
  };
  setTimeout(look, 100);
})
