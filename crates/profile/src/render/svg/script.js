(function () {
  "use strict";
  // Everything below works on bars that are drawn already; without scripts the picture is whole, only still.
  const svg = document.currentScript ? document.currentScript.ownerSVGElement : document.documentElement;
  const plot = svg.querySelector(".plot");
  const details = svg.querySelector(".details");
  const reset = svg.querySelector(".reset");
  const matched = svg.querySelector(".matched");
  const CHARACTER = 7.23, PADDING = 6, MIN_CHARACTERS = 3, THIN = 4, MARGIN = 10, MIN_WIDTH = 480;
  // Positions are rounded to this part of a percent.
  const ROUNDING = 2e-6;
  const ALL = { start: 0, width: 100, y: -1 };
  let view = ALL;
  let pattern = null;

  const bars = Array.from(plot.querySelectorAll("g"), function (group) {
    const rect = group.querySelector("rect");
    const title = group.querySelector("title").textContent;
    const name = title.split("\n", 1)[0];
    return {
      group: group, rect: rect, text: group.querySelector("text"), title: title, name: name,
      short: group.getAttribute("data-s") || name,
      start: parseFloat(rect.getAttribute("x")), width: parseFloat(rect.getAttribute("width")),
      y: parseFloat(rect.getAttribute("y")), shown: true, found: false,
    };
  });
  const barOf = new Map(bars.map(function (bar) { return [bar.group, bar]; }));

  function columns(text) {
    let sum = 0;
    for (const character of text) {
      const code = character.codePointAt(0);
      sum += code < 0x1100 || (code >= 0x2000 && code <= 0x2bff) ? 1 : 2;
    }
    return sum;
  }

  function fitted(bar, pixels) {
    const room = Math.floor((pixels - PADDING) / CHARACTER);
    if (room < MIN_CHARACTERS) return "";
    const last = bar.short.slice(bar.short.lastIndexOf("::") < 0 ? 0 : bar.short.lastIndexOf("::") + 2);
    for (const text of [bar.name, bar.short, last]) {
      if (columns(text) <= room) return text;
    }
    let cut = "", used = 1;
    for (const character of last) {
      used += columns(character);
      if (used > room) break;
      cut += character;
    }
    return cut + "…";
  }

  function draw() {
    const plotPixels = parseFloat(plot.getAttribute("width"));
    for (const bar of bars) {
      const end = bar.start + bar.width, viewEnd = view.start + view.width;
      const above = bar.y < view.y;
      const slack = ROUNDING * 2;
      bar.shown = above
        ? bar.start <= view.start + slack && end >= viewEnd - slack
        : bar.start >= view.start - slack && end <= viewEnd + slack;
      bar.group.setAttribute("class", [
        bar.shown ? "" : "hidden", above ? "above" : "", bar.found ? "found" : "",
      ].join(" ").trim());
      if (!bar.shown) continue;
      const start = above ? 0 : Math.max(0, (bar.start - view.start) / view.width * 100);
      const width = above ? 100 : Math.min(100 - start, bar.width / view.width * 100);
      bar.rect.setAttribute("x", start + "%");
      bar.rect.setAttribute("width", width + "%");
      const pixels = width / 100 * plotPixels;
      bar.rect.classList.toggle("thin", pixels < THIN);
      const label = fitted(bar, pixels);
      if (label && !bar.text) {
        bar.text = document.createElementNS("http://www.w3.org/2000/svg", "text");
        bar.text.setAttribute("y", bar.y + 12.5);
        bar.text.setAttribute("dx", PADDING / 2);
        bar.group.appendChild(bar.text);
      }
      if (bar.text) {
        bar.text.setAttribute("x", start + "%");
        bar.text.textContent = label;
      }
    }
    reset.classList.toggle("hidden", view === ALL && pattern === null);
    showMatched();
  }

  // The share of the view that lies in bars that were found, each sample once.
  function showMatched() {
    if (pattern === null) { matched.textContent = ""; return; }
    let covered = 0, reached = view.start;
    const found = bars.filter(function (bar) { return bar.found && bar.shown && bar.y >= view.y; });
    found.sort(function (left, right) { return left.start - right.start || right.width - left.width; });
    for (const bar of found) {
      const end = bar.start + bar.width;
      if (end > reached) { covered += end - Math.max(reached, bar.start); reached = end; }
    }
    const share = Math.min(100, covered / view.width * 100).toFixed(2);
    matched.textContent = "found " + share + " % in " + found.length + " bars: " + pattern;
  }

  function search(words) {
    let expression = null;
    pattern = words || null;
    if (pattern !== null) {
      try { expression = new RegExp(pattern, "i"); }
      catch (error) { expression = new RegExp(pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i"); }
    }
    for (const bar of bars) bar.found = expression !== null && expression.test(bar.name);
    draw();
  }

  function ask() {
    const words = window.prompt("Search for functions (regular expression):", pattern || "");
    if (words !== null) search(words);
  }

  function zoom(bar) { view = bar || ALL; draw(); }

  function restore() { view = ALL; search(""); }

  // Fills the width of the window where the picture is the document, and keeps its size elsewhere.
  function resize() {
    if (svg !== document.documentElement) return;
    svg.removeAttribute("viewBox");
    svg.setAttribute("width", "100%");
    const width = Math.max(MIN_WIDTH, svg.getBoundingClientRect().width || 0);
    plot.setAttribute("width", width - 2 * MARGIN);
    for (const text of svg.querySelectorAll(".right")) text.setAttribute("x", width - MARGIN);
    draw();
  }

  plot.addEventListener("click", function (event) {
    const bar = barOf.get(event.target.closest("g"));
    if (bar) zoom(bar);
  });
  plot.addEventListener("mouseover", function (event) {
    const bar = barOf.get(event.target.closest("g"));
    details.textContent = bar ? bar.title.split("\n").join("  ·  ") : "";
  });
  plot.addEventListener("mouseleave", function () { details.textContent = ""; });
  svg.querySelector(".search").addEventListener("click", ask);
  reset.addEventListener("click", restore);
  window.addEventListener("keydown", function (event) {
    if (event.key === "/" || ((event.ctrlKey || event.metaKey) && event.key === "f")) { event.preventDefault(); ask(); }
    else if (event.key === "Escape") restore();
  });
  window.addEventListener("resize", resize);
  svg.querySelector(".search").classList.remove("hidden");
  if (svg === document.documentElement) resize(); else draw();
})();
