// The page of a monitor cell. It reads the JSON file next to the cell's image once a second and draws the curves. When
// training is done, the image takes its place. Everything lives in one shadow root: there are no globals, and no styles
// leak in or out.
(function (image, run) {
  "use strict";
  const HTML = `
    <style>
      :host { display: block; max-width: 880px; padding: 6px 2px 2px; color: inherit;
        font: 13px/1.4 var(--jp-ui-font-family, system-ui, sans-serif); font-variant-numeric: tabular-nums; }
      .page { --train: #0072b2; --validation: #d55e00;
        --faint: color-mix(in srgb, currentColor 64%, transparent);
        --line: color-mix(in srgb, currentColor 13%, transparent); }
      .page.dark { --train: #56b4e9; --validation: #e69f00; }
      .head { display: flex; justify-content: space-between; align-items: baseline; flex-wrap: wrap; gap: 0 16px; }
      .title { font-size: 17px; font-weight: 600; }
      .title span, .left span { font-size: 13px; font-weight: 400; color: var(--faint); }
      .title span { margin-left: 8px; }
      .left { font-size: 17px; font-weight: 600; }
      .stop { font: inherit; font-size: 13px; margin-left: 14px; padding: 2px 12px; cursor: pointer; color: inherit;
        background: var(--line); border: 1px solid var(--line); border-radius: 6px; vertical-align: 2px; }
      .stop:hover:enabled { border-color: currentColor; } .stop:disabled { cursor: default; opacity: .6; }
      .bar { position: relative; height: 12px; margin: 7px 0 5px; border-radius: 6px; background: var(--line); overflow: hidden; }
      .thin { height: 4px; margin: 0; border-radius: 2px; }
      .fill { height: 100%; width: 0; background: var(--train); border-radius: inherit; transition: width .9s linear; }
      .thin .fill { opacity: .55; }
      .under { display: flex; justify-content: space-between; font-size: 12px; color: var(--faint); margin: 4px 0 10px; }
      .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, auto)); gap: 8px; margin-bottom: 12px; }
      .tile { border: 1px solid var(--line); border-radius: 6px; padding: 5px 10px 6px; }
      .tile .name { font-size: 11.5px; color: var(--faint); white-space: nowrap; }
      .tile .name::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 4px;
        margin-right: 5px; background: var(--dot); }
      .tile .name.plain::before { display: none; }
      .tile .value { font-size: 18px; font-weight: 600; white-space: nowrap; }
      .charts { display: flex; flex-wrap: wrap; gap: 8px 20px; }
      .charts > svg { flex: 1 1 300px; min-width: 0; max-width: 440px; height: auto; display: block; overflow: visible; }
      svg text { font-size: 11.5px; fill: var(--faint); font-family: inherit; }
      svg .name { font-size: 13px; font-weight: 600; fill: currentColor; }
      svg .grid { stroke: var(--line); } svg .axis { stroke: var(--faint); opacity: .6; }
      svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
      svg .trace { fill: none; stroke: var(--train); stroke-width: 1.2; opacity: .5; stroke-linejoin: round; }
      .note { color: var(--faint); margin: 4px 0; } .note:empty { display: none; }
      .note.warn { color: inherit; border-left: 3px solid var(--validation); padding-left: 9px; }
      [hidden] { display: none !important; }
    </style>
    <div class="page">
      <div class="live">
        <div class="head"><div class="title"></div>
          <div><span class="left"></span><button class="stop" hidden title="Ends training after the current step. Nothing is lost.">Stop</button></div></div>
        <div class="bar" role="progressbar" aria-label="all epochs" aria-valuemin="0" aria-valuemax="100"><div class="fill"></div></div>
        <div class="bar thin" role="progressbar" aria-label="this epoch" aria-valuemin="0" aria-valuemax="100"><div class="fill"></div></div>
        <div class="under"><span class="step"></span><span class="share"></span></div>
        <div class="tiles"></div>
        <div class="charts"></div>
      </div>
      <div class="note"></div>
    </div>`;

  // Seconds without news after which training counts as interrupted.
  const PATIENCE = 5;

  // A number, or NaN for missing values and those written as text.
  const number = (v) => (typeof v === "number" ? v : NaN);
  const fixed = (v, digits) => (!Number.isFinite(v) ? "–" : Math.abs(v) < 1e5 ? v.toFixed(digits) : v.toExponential(1).replace("+", ""));
  const whole = (v) => (Number.isFinite(v) ? Math.round(v).toLocaleString("en-US") : "–");

  function duration(seconds) {
    if (!Number.isFinite(seconds)) return "–";
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    const m = Math.round(s / 60);
    if (m < 60) return `${m} min`;
    if (m < 1440) return `${Math.floor(m / 60)} h ${m % 60} min`;
    return `${Math.floor(m / 1440)} d ${Math.floor((m % 1440) / 60)} h`;
  }

  // About this many round numbers from low to high, and the digits needed to distinguish them.
  function ticks(low, high, about, least) {
    const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max(least, power * ([1, 2, 5].find((n) => n * power >= rough * 0.999) || 10));
    const list = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) list.push(i * step);
    return { list, digits: Math.max(0, -Math.floor(Math.log10(step * 1.001))) };
  }

  // One chart: the curves of the epochs, the thin curve between their ends, and the best point.
  function chart(title, report, key, better, legend) {
    const W = 430, H = 236, left = 52, right = W - 10, top = 34, bottom = H - 34;
    const points = (k) => report.history.map((r) => [r.epoch, number(r[k])]).filter((p) => Number.isFinite(p[1]));
    const train = points(key), validation = points("val_" + key);
    const column = key === "loss" ? 1 : 2;
    const trace = report.trace.map((p) => [p[0], number(p[column])]).filter((p) => Number.isFinite(p[1]));
    // The first epochs of many should fill the chart too, so its end doubles as epochs come.
    let end = 8;
    while (end < report.epoch) end *= 2;
    end = Math.max(1, Math.min(end, report.epochs));
    const sorted = trace.map((p) => p[1]).sort((a, b) => a - b);
    const usual = [sorted[Math.floor(0.02 * sorted.length)], sorted[Math.ceil(0.98 * sorted.length) - 1]];
    const values = [...train, ...validation].map((p) => p[1]).concat(trace.slice(-1).map((p) => p[1]), sorted.length ? usual : []);
    let low = Math.min(...values), high = Math.max(...values);
    if (!values.length) [low, high] = [0, 1];
    const room = high > low ? 0.06 * (high - low) : Math.max(0.1 * Math.abs(high), 1e-3);
    [low, high] = [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
    if (key === "acc") high = Math.min(high, 1);
    if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
    const x = (v) => left + (v / end) * (right - left), y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    const path = (list) => list.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ");
    const across = ticks(0, end, 6, 1), up = ticks(low, high, 5, 0);
    const svg = [];
    for (const t of up.list) {
      svg.push(`<line class="grid" x1="${left}" x2="${right}" y1="${y(t)}" y2="${y(t)}"/>`);
      svg.push(`<text x="${left - 7}" y="${y(t) + 4}" text-anchor="end">${fixed(t, up.digits)}</text>`);
    }
    for (const t of across.list) svg.push(`<text x="${x(t)}" y="${bottom + 16}" text-anchor="middle">${t}</text>`);
    svg.push(`<text x="${(left + right) / 2}" y="${bottom + 31}" text-anchor="middle">epochs</text>`);
    svg.push(`<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`);
    svg.push(`<text class="name" x="${left}" y="18">${title}</text>`);
    let at = right;
    for (const [name, color] of legend) {
      at -= 6.4 * name.length + 26;
      svg.push(`<line x1="${at}" x2="${at + 18}" y1="14" y2="14" style="stroke: ${color}; stroke-width: 2.5"/>`);
      svg.push(`<text x="${at + 23}" y="18">${name}</text>`);
    }
    const lines = [];
    if (trace.length > 1) lines.push(`<polyline class="trace" points="${path(trace)}"/>`);
    for (const [list, color] of [[train, "var(--train)"], [validation, "var(--validation)"]]) {
      if (list.length > 1) lines.push(`<polyline class="curve" style="stroke: ${color}" points="${path(list)}"/>`);
      const dots = list.length > 30 ? list.slice(-1) : list;
      for (const p of dots) lines.push(`<circle cx="${x(p[0])}" cy="${y(p[1])}" r="3" style="fill: ${color}"/>`);
    }
    const best = (validation.length ? validation : train).reduce((a, b) => (a && !better(b[1], a[1]) ? a : b), null);
    if (best) {
      const color = validation.length ? "var(--validation)" : "var(--train)";
      lines.push(`<circle cx="${x(best[0])}" cy="${y(best[1])}" r="6" style="fill: none; stroke: ${color}; stroke-width: 1.5"/>`);
    }
    if (trace.length) {
      const now = trace[trace.length - 1];
      lines.push(`<circle cx="${x(now[0])}" cy="${y(now[1])}" r="2.5" style="fill: var(--train)"/>`);
    }
    // A nested <svg> clips without an id, which could clash with that of another chart.
    const inside = `<svg x="${left}" y="${top - 8}" width="${right - left + 8}" height="${bottom - top + 9}" viewBox="${left} ${top - 8} ${right - left + 8} ${bottom - top + 9}">${lines.join("")}</svg>`;
    return `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${title}">${svg.join("")}${inside}</svg>`;
  }

  function tile(name, value, dot) {
    const style = dot ? ` style="--dot: var(--${dot})"` : "";
    return `<div class="tile"><div class="name${dot ? "" : " plain"}"${style}>${name}</div><div class="value">${value}</div></div>`;
  }

  // Creates the page. Returns a function that updates it and tells when to call it again.
  function makePage(image, host) {
    const root = host.attachShadow({ mode: "open" });
    root.innerHTML = HTML;
    const $ = (selector) => root.querySelector(selector);
    const [wholeBar, epochBar] = root.querySelectorAll(".bar");
    let failures = 0, sawTraining = false, stamp = null, changed = 0, current = null, stopping = false, failedStop = "";

    function say(text, warn) {
      $(".note").textContent = text;
      $(".note").classList.toggle("warn", Boolean(warn));
    }
    function show(live) {
      $(".live").hidden = !live;
      image.style.display = live ? "none" : "";
    }
    function fill(bar, share) {
      const percent = 100 * Math.min(1, Math.max(0, share || 0));
      const inner = bar.firstElementChild;
      // Forward smoothly, back to the start at once.
      inner.style.transition = percent < parseFloat(inner.style.width || "0") ? "none" : "";
      inner.style.width = percent.toFixed(2) + "%";
      bar.setAttribute("aria-valuenow", percent.toFixed(0));
    }

    // The address of the file that ends training, in Jupyter's contents API; null where there is no Jupyter.
    function stopFile() {
      try {
        const { baseUrl, token } = JSON.parse(document.getElementById("jupyter-config-data").textContent);
        const url = new URL(image.src), files = baseUrl + "files/";
        if (!url.pathname.startsWith(files)) return null;
        const path = url.pathname.slice(files.length).replace(/\.png$/, ".stop");
        return { url: url.origin + baseUrl + "api/contents/" + path, path: decodeURIComponent(path), token };
      } catch {
        return null;
      }
    }

    async function stop() {
      const file = stopFile();
      stopping = true;
      $(".stop").disabled = true;
      $(".stop").textContent = "Stopping";
      try {
        const headers = { "Content-Type": "application/json" };
        // What Jupyter asks for, so that other sites cannot write files in its name.
        const xsrf = document.cookie.match(/(?:^|;\s*)_xsrf=([^;]*)/);
        if (xsrf) headers["X-XSRFToken"] = xsrf[1];
        if (file.token) headers.Authorization = "token " + file.token;
        const body = JSON.stringify({ type: "file", format: "text", content: "" });
        const response = await fetch(file.url, { method: "PUT", headers, body });
        if (!response.ok) throw new Error("status " + response.status);
      } catch (error) {
        stopping = false;
        failedStop = `Jupyter refused to stop training (${error.message}). Create the file ${file.path} instead.`;
      }
    }
    $(".stop").addEventListener("click", stop);

    function draw(r, interrupted) {
      // Light text means a dark page, whatever the theme is called.
      const rgb = (getComputedStyle(host).color.match(/[\d.]+/g) || [0, 0, 0]).slice(0, 3).map(Number);
      $(".page").classList.toggle("dark", rgb[0] + rgb[1] + rgb[2] > 384);
      const waiting = r.state === "waiting", validating = r.step >= r.steps && r.history.length < r.epoch;
      const steps = r.epochs * r.steps, done = Math.max(0, r.epoch - 1) * r.steps + r.step;
      const share = steps ? done / steps : 0;
      const live = r.state === "training" && !interrupted;
      const phase = r.state === "stopped" ? "failed" : interrupted ? "interrupted" : stopping ? "stopping" : validating ? "validating" : "training";
      $(".stop").hidden = !live || !stopFile();
      $(".stop").disabled = stopping;
      $(".stop").textContent = stopping ? "Stopping" : "Stop";
      $(".title").innerHTML = waiting ? "Waiting for training to start" : `Epoch ${r.epoch} of ${r.epochs}<span>${phase}</span>`;
      const left = number(r.seconds_left);
      $(".left").innerHTML = live && Number.isFinite(left) ? `<span>left</span> ${duration(left)}` : "";
      fill(wholeBar, share);
      fill(epochBar, r.steps ? r.step / r.steps : 0);
      $(".step").textContent = waiting ? "It starts when the cell that trains runs." : `step ${whole(r.step)} of ${whole(r.steps)}`;
      $(".share").textContent = waiting ? "" : `${Math.floor(100 * share)} %  ·  ${duration(number(r.seconds))} so far`;
      // The page has its full height while it waits, so nothing below it jumps when training begins.
      $(".tiles").style.opacity = $(".charts").style.opacity = waiting ? 0.5 : 1;
      const last = r.history[r.history.length - 1] || {};
      const validated = r.history.some((e) => Number.isFinite(number(e.val_acc)));
      const expected = validated || !r.history.length;
      const accuracy = (e) => number(validated ? e.val_acc : e.acc);
      const best = r.history.reduce((a, e) => (Number.isFinite(accuracy(e)) && (!a || accuracy(e) > accuracy(a)) ? e : a), null);
      $(".tiles").innerHTML =
        tile("images/s", waiting ? "–" : whole(number(r.images_per_second))) +
        tile("loss, epoch so far", fixed(number(r.loss), 4), "train") +
        tile("accuracy, epoch so far", fixed(number(r.acc), 4), "train") +
        (expected
          ? tile("validation loss", fixed(number(last.val_loss), 4), "validation") +
            tile("validation accuracy", fixed(number(last.val_acc), 4), "validation")
          : "") +
        tile(best ? `best, epoch ${best.epoch}` : "best", best ? fixed(accuracy(best), 4) : "–", expected ? "validation" : "train");
      const legend = (expected ? [["validation", "var(--validation)"]] : []).concat([["train", "var(--train)"]]);
      $(".charts").innerHTML =
        chart("accuracy", r, "acc", (a, b) => a > b, legend) + chart("loss", r, "loss", (a, b) => a < b, legend);
    }

    async function fetchReport() {
      // JupyterLab sets the real address of the image only after scripts have run, so it is read each time.
      if (!image.getAttribute("src")) return null;
      const url = new URL(image.src);
      url.pathname = url.pathname.replace(/\.png$/, ".json");
      url.searchParams.delete("t");
      if (url.protocol === "file:") throw new Error("a copy on disk");
      const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (!response.ok) throw new Error(response.status);
      return [await response.json(), Date.parse(response.headers.get("date"))];
    }

    function showImage(updated) {
      try {
        const url = new URL(image.src);
        url.searchParams.set("t", updated);
        image.src = url.href;
      } catch {}
      show(false);
    }

    // The milliseconds until the next call; 0 means never.
    return async function update() {
      if (!host.isConnected || document.hidden) return 2000;
      let report, date;
      try {
        const answer = await fetchReport();
        if (!answer) return 300;
        [report, date] = answer;
        failures = 0;
      } catch {
        failures += 1;
        if (current) {
          if (failures > 2) say("Jupyter does not respond; still trying.", true);
          return Math.min(1000 * 2 ** failures, 30000);
        }
        show(false);
        if (image.src.startsWith("file:")) return 0;
        if (failures < 4) return 400 * 2 ** failures;
        say("The curves up to the last finished epoch. JupyterLab and Notebook 7 show training live here.");
        return 0;
      }
      if (report.run !== run) {
        showImage(report.updated);
        say("Another monitor uses these files now. Run this cell again to see its training.");
        return 0;
      }
      const now = Date.now();
      if (report.updated !== stamp) {
        // Only the server's clock can tell how old the file was when the page opened.
        const age = stamp === null && date ? Math.max(0, date - 1000 * report.updated) : 0;
        [stamp, changed] = [report.updated, now - age];
      }
      current = report;
      const over = report.state === "done" || report.state === "stopped";
      if (!over) sawTraining = true;
      if (report.state !== "training") [stopping, failedStop] = [false, ""];
      if (report.state === "done") {
        showImage(report.updated);
        say(report.message ? `Training ended early: ${report.message}.` : "");
      } else {
        // Training writes the file every second, whatever it does.
        const silent = (now - changed) / 1000, interrupted = report.state === "training" && silent > PATIENCE;
        show(true);
        draw(report, interrupted);
        if (report.state === "stopped") say(`Training failed: ${report.message}.`, true);
        else if (interrupted) say(`Interrupted: no sign of life from training for ${duration(silent)}. Run the cells again; with checkpoints, it goes on from the last one.`, true);
        else say(failedStop, true);
      }
      // In a notebook that is opened later nothing follows; here the next cell may continue training.
      if (over) return sawTraining ? 10000 : 0;
      return Math.min(Math.max((now - changed) / 10, 1000), 10000);
    };
  }

  // The timer holds only a weak reference: a page whose output was cleared is garbage collected, which ends its updates.
  // A page that is out of the document for a while (scrolled away in a long notebook) comes back.
  const pages = new WeakMap();
  async function again(weak) {
    const host = weak.deref();
    const pause = host ? await pages.get(host)() : 0;
    if (pause) setTimeout(again, pause, weak);
  }
  function start() {
    const host = document.createElement("div");
    host.className = "vgg-monitor";
    image.before(host);
    pages.set(host, makePage(image, host));
    return new WeakRef(host);
  }
  setTimeout(again, 50, start());
})
