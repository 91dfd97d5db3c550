// The network from its first operator to its last: a bar for each layer (time, MACs or bytes), and the bytes alive.
(() => {
  "use strict";
  const { data, colour, MARKS, NETWORKS, markOf, prefixed, axis, layout, react, hover, keepDrawn, told, sum } = charts;
  const several = data.views.length > 1;

  // --- Bars: one chart for each network, all on one scale.
  const QUANTITIES = { ms: ["Time", "s", 1e-3], macs: ["MACs", "", 1], moved: ["Bytes moved", "B", 1] };
  const AXES = { ms: "time", macs: "MACs", moved: "bytes moved" };
  const shown = Object.keys(QUANTITIES).filter((key) => data.views.some((v) => v.layers.some((l) => l[key] > 0)));
  let quantity = shown[0];
  const barMargin = { l: 72, r: 16, t: 8, b: 44 };
  const boxes = [...document.querySelectorAll(".bars-chart")];
  const stretched = (layers, most) => {
    // More layers than there is room for: neighbours share a bar.
    const stretch = Math.ceil(layers.length / most);
    return Array.from({ length: Math.ceil(layers.length / stretch) }, (_, i) => layers.slice(i * stretch, (i + 1) * stretch));
  };
  const value = (layers) => sum(layers.map((l) => l[quantity] ?? 0)) * QUANTITIES[quantity][2];
  const heaviest = (layers) => layers.reduce((a, b) => ((b[quantity] ?? 0) > (a[quantity] ?? 0) ? b : a));
  const longest = Math.max(...data.views.map((v) => v.layers.length));

  function drawBars(box) {
    const width = Math.max(80, box.clientWidth - barMargin.l - barMargin.r);
    const most = Math.max(40, Math.floor(width / 2.5));
    const view = data.views[box.dataset.view];
    const stretch = Math.ceil(longest / most);
    const bars = stretched(view.layers, Math.ceil(view.layers.length / stretch));
    const top = Math.max(...data.views.map((v) => Math.max(...stretched(v.layers, Math.ceil(v.layers.length / stretch)).map(value))));
    const unit = QUANTITIES[quantity][1];
    react(box, [{
      type: "bar", hoverinfo: "none", x: bars.map((b) => (b[0].number + b[b.length - 1].number) / 2), y: bars.map(value),
      width: bars.map((b) => 0.86 * b.length), customdata: bars.map((_, i) => i),
      marker: { color: bars.map((b) => colour((several ? NETWORKS[box.dataset.view] : MARKS[markOf(heaviest(b))]).colour)), line: { width: 0 } },
    }], layout(barMargin, {
      bargap: 0, hovermode: "x",
      xaxis: axis({ range: [0, longest + 1], showgrid: false, nticks: Math.max(3, width / 90),
        title: { text: "layers, in the order they run", standoff: 6 } }),
      yaxis: axis({ range: [0, 1.08 * top || 1], nticks: 5, ...ticks(1.08 * top || 1, unit), title: { text: AXES[quantity], standoff: 4 } }),
    }));
    box.bars = bars;
  }

  // Round steps with a unit: 0, 20 µs, 40 µs …
  function ticks(top, unit) {
    const rough = top / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const tickvals = Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
    return { tickvals, ticktext: tickvals.map((v) => (v === 0 ? "0" : prefixed(v, unit).trim())) };
  }

  const chooser = document.getElementById("quantity-buttons");
  function choose() {
    if (chooser && shown.length > 1) {
      chooser.replaceChildren(...shown.map((key) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = QUANTITIES[key][0];
        button.setAttribute("aria-pressed", String(key === quantity));
        button.addEventListener("click", () => { quantity = key; choose(); boxes.forEach(drawBars); });
        return button;
      }));
      chooser.parentElement.hidden = false;
    }
  }
  choose();
  for (const box of boxes) {
    keepDrawn(box, () => drawBars(box));
    hover(box, barMargin, (hit) => {
      const bar = box.bars[hit.customdata];
      const layer = heaviest(bar);
      const others = bar.length > 1 ? [["Bar", `${bar.length} layers, ${prefixed(value(bar), QUANTITIES[quantity][1])} together; the heaviest:`]] : [];
      return [layer.name, [...others, ...told({ ...layer, count: 1 })]];
    });
  }

  // --- Memory: live bytes after each operator.
  const box = document.getElementById("memory-chart");
  if (!box) return;
  const margin = { l: 72, r: 16, t: 26, b: 44 };
  const views = data.views.map((view, i) => ({ ...view, mark: NETWORKS[i] })).filter((view) => view.memory);
  function drawMemory() {
    const width = Math.max(80, box.clientWidth - margin.l - margin.r);
    const top = 1.12 * Math.max(...views.map((v) => v.memory.peak[3]));
    const end = Math.max(...views.map((v) => v.memory.operators));
    const traces = views.flatMap((view, i) => {
      const { steps, peak } = view.memory;
      const tint = colour(view.mark.colour);
      return [
        { type: "scatter", mode: "lines", hoverinfo: "none", x: steps.map((s) => s[0]), y: steps.map((s) => s[3]),
          customdata: steps.map((s) => [i, s]), fill: "tozeroy", fillcolor: tint + (several ? "14" : "26"),
          line: { shape: "hv", color: tint, width: 1.4, dash: i ? "dash" : "solid" } },
        { type: "scatter", mode: "markers", hoverinfo: "none", x: [peak[0]], y: [peak[3]], customdata: [[i, peak]],
          marker: { symbol: view.mark.symbol, size: 10, color: tint, line: { color: colour("page"), width: 1.5 } } },
      ];
    });
    react(box, traces, layout(margin, {
      hovermode: "x", hoverdistance: 40,
      xaxis: axis({ range: [0, end + 1], showgrid: false, nticks: Math.max(3, width / 90), title: { text: "operators, in the order they run", standoff: 6 } }),
      yaxis: axis({ range: [0, top], ...ticks(top, "B"), title: { text: "alive", standoff: 4 } }),
      annotations: views.map((view) => {
        const { peak } = view.memory;
        const share = peak[0] / (end + 1);
        return { text: `${prefixed(peak[3], "B")}`, showarrow: false, x: peak[0], y: peak[3], yshift: 13,
          xanchor: share < 0.1 ? "left" : share > 0.9 ? "right" : "center", font: { size: 12, color: colour(view.mark.colour) } };
      }),
    }));
  }
  keepDrawn(box, drawMemory);
  hover(box, margin, (hit) => {
    const [i, [number, layer, op, live]] = hit.customdata;
    return [several ? `${views[i].name}: ${layer}` : layer, [["Operator", `${op}, number ${number.toLocaleString("en")}`], ["Alive", prefixed(live, "B")]]];
  });
})();
