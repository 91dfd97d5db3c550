// What the charts of a profile share: the data block, colours, numbers as text, the tip, and drawing anew on a change.
const charts = (() => {
  "use strict";
  const data = JSON.parse(document.getElementById("profile-data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  // plotly.js reads a few tags in its texts; a name is no tag.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  // What binds a layer, or, without a device, what kind of work it is. Shape and colour tell the same.
  const MARKS = {
    compute: { name: "bound by compute", symbol: "circle", colour: "accent" },
    memory: { name: "bound by memory", symbol: "diamond", colour: "best" },
    overhead: { name: "bound by overhead", symbol: "square", colour: "baseline" },
    dense: { name: "convolution or matrix product", symbol: "circle", colour: "accent" },
    depthwise: { name: "depthwise convolution", symbol: "diamond", colour: "best" },
    attention: { name: "attention", symbol: "triangle-up", colour: "good" },
    other: { name: "everything else", symbol: "square", colour: "baseline" },
  };
  const NETWORKS = [{ symbol: "circle", colour: "accent" }, { symbol: "diamond", colour: "best" }];
  const markOf = (layer) => (layer.bound in MARKS ? layer.bound : layer.bound === null && layer.kind in MARKS ? layer.kind : "other");

  // 4089184256 -> "4.09 G"
  function prefixed(value, unit) {
    if (value === 0) return `0 ${unit}`;
    const power = Math.max(-3, Math.min(5, Math.floor(Math.log10(Math.abs(value) * 1.0005) / 3)));
    const number = value / 1000 ** power;
    const digits = Math.abs(number) >= 99.95 ? 0 : Math.abs(number) >= 9.995 ? 1 : 2;
    return `${Number(number.toFixed(digits))} ${["n", "µ", "m", "", "k", "M", "G", "T", "P"][power + 3]}${unit}`;
  }

  // Powers of ten, and 2 and 5 between where there is room; `label` makes the text of a value.
  function logTicks(range, pixels, label) {
    const decades = range[1] - range[0];
    const steps = decades * 3 * 46 < pixels ? [1, 2, 5] : decades * 2 * 46 < pixels ? [1, 3] : [1];
    const every = steps.length === 1 ? Math.max(1, Math.ceil((decades * 56) / pixels)) : 1;
    const values = [];
    for (let power = Math.floor(range[0]); power <= range[1]; power += 1)
      for (const step of steps) {
        const value = Number(`${step}e${power}`);
        if (power % every === 0 && Math.log10(value) >= range[0] && Math.log10(value) <= range[1]) values.push(value);
      }
    return { tickvals: values, ticktext: values.map(label) };
  }

  const axis = (more) => ({
    gridcolor: colour("grid"), zeroline: false, linecolor: colour("line"), showline: true, fixedrange: false, ...more,
  });
  const layout = (margin, more) => ({
    margin, showlegend: false, hovermode: "closest", hoverdistance: 24,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("muted") },
    ...more,
  });
  const react = (box, traces, drawn) =>
    // The size is given, for plotly.js finds it once only.
    Plotly.react(box, traces, { width: box.clientWidth, height: box.clientHeight, ...drawn }, { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset" });

  // A tip beside what the pointer is on: `tell(hit)` gives its heading and its lines of [name, text].
  function hover(box, margin, tell) {
    const tip = box.parentElement.querySelector(".tip");
    box.on("plotly_hover", (event) => {
      const hit = event.points.find((point) => point.customdata !== undefined);
      if (!hit) return;
      const [heading, lines] = tell(hit);
      const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
      const list = document.createElement("dl");
      for (const [name, text] of lines) list.append(make("dt", name), make("dd", text));
      tip.replaceChildren(make("b", heading), list);
      tip.hidden = false;
      const left = box.offsetLeft + margin.l + hit.xaxis.d2p(hit.x);
      const top = box.offsetTop + margin.t + hit.yaxis.d2p(hit.y);
      const room = box.parentElement.clientWidth - tip.offsetWidth;
      const beside = left + 18 <= room ? left + 18 : left - 18 - tip.offsetWidth;
      const fits = beside >= 0 && beside <= room;
      tip.style.left = `${fits ? beside : Math.max(0, Math.min(room, left - tip.offsetWidth / 2))}px`;
      tip.style.top = `${fits ? Math.max(0, top - tip.offsetHeight / 2) : top + 22}px`;
    });
    box.on("plotly_unhover", () => { tip.hidden = true; });
  }

  // Draw now, and again when the width or the colour scheme changes.
  function keepDrawn(box, draw) {
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    let width = box.clientWidth;
    new ResizeObserver(() => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      requestAnimationFrame(draw);
    }).observe(box);
  }

  // The lines of a layer's tip.
  function told(layer) {
    const time = layer.ms === null || layer.bound === "fused" ? [] : [["Time", `${prefixed(layer.ms / 1e3, "s")}${layer.count > 1 ? " together" : ""}`]];
    return [
      ["Operator", layer.op], ["Output", layer.shape],
      ["MACs", prefixed(layer.macs, "")], ["Moved", prefixed(layer.moved, "B")],
      ["Intensity", `${Number(layer.intensity.toPrecision(3))} FLOP/B`],
      ...time, ...(layer.bound === "fused" ? [["Time", "within another layer's kernel"]] : layer.bound ? [["Bound by", layer.bound]] : []),
    ];
  }

  return { data, colour, escaped, sum, MARKS, NETWORKS, markOf, prefixed, logTicks, axis, layout, react, hover, keepDrawn, told };
})();
