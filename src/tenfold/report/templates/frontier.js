// The frontier chart: score against one cost, from the JSON block that the page carries.
// A point is {id, label, kind, frontier, latency, iqr, size, memory, test, validation, lines, recipe};
// `test` and `validation` are [score, low, high], and null is "not measured", which is never drawn.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("frontier-data").textContent);
  const box = document.getElementById("chart");
  const tip = document.getElementById("tip");
  const note = document.getElementById("chart-note");
  const AXES = {
    latency: { name: "Latency", title: "latency, ms (median)", unit: "ms" },
    size: { name: "Size", title: "size on disk, MB", unit: "MB" },
    memory: { name: "Memory", title: "peak memory, MB", unit: "MB" },
  };
  const SPLITS = { test: "Test", validation: "Validation" };
  const scale = data.share ? 100 : 1;
  const margin = { l: 68, r: 14, t: 14, b: 50 };
  const original = data.points.find((point) => point.id === data.original);

  const counted = (axis, split) => data.points.filter((p) => p[axis] !== null && p[split][0] !== null);
  // What shows most points; latency before size before memory, and test before validation, where they show as many.
  const views = Object.keys(SPLITS).flatMap((split) => Object.keys(AXES).map((axis) => ({ axis, split })));
  const richest = views.reduce((a, b) => (counted(b.axis, b.split).length > counted(a.axis, a.split).length ? b : a));
  const state = { ...richest, close: true, chosen: data.best ?? data.original };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const score = (point) => point[state.split][0] * scale;

  // Far below the original, a few broken networks would press all others into one line.
  function floor() {
    const top = original[state.split][0];
    if (top === null) return -Infinity;
    return (top - Math.max(5 * (data.limits.drop ?? 0), 0.1 * Math.abs(top))) * scale;
  }

  // Of the points shown, those that no other beats on both axes, from cheap to dear.
  function staircase(points) {
    const kept = [];
    for (const p of [...points].sort((a, b) => a[state.axis] - b[state.axis] || score(b) - score(a)))
      if (!kept.length || score(p) > score(kept[kept.length - 1])) kept.push(p);
    return kept;
  }

  function ranges(points) {
    const costs = points.map((p) => p[state.axis]);
    const limit = data.limits[state.axis];
    let [low, high] = [Math.min(...costs), Math.max(...costs)];
    if (limit !== null && limit > low / 3 && limit < high * 3) [low, high] = [Math.min(low, limit), Math.max(high, limit)];
    const log = low > 0 && high / low > 6;
    let x;
    if (log) {
      const pad = 0.07 * Math.log10(high / low);
      x = [Math.log10(low) - pad, Math.log10(high) + pad];
    } else {
      const pad = 0.08 * (high - low || Math.abs(high) || 1);
      x = [Math.max(0, low - pad), high + pad];
    }
    const scores = points.flatMap((p) => p[state.split].filter((v) => v !== null).map((v) => v * scale));
    const least = leastScore();
    let [bottom, top] = [Math.min(...scores), Math.max(...scores)];
    if (least !== null && least > bottom - 2 * (top - bottom)) bottom = Math.min(bottom, least);
    const pad = 0.08 * (top - bottom || Math.abs(top) || 1);
    return { x, y: [bottom - pad, top + pad], log };
  }

  function leastScore() {
    const top = original[state.split][0];
    return data.limits.drop === null || top === null ? null : (top - data.limits.drop) * scale;
  }

  // 1-2-5 ticks on a log axis, fewer where there is little room.
  function logTicks(range, width) {
    const steps = (range[1] - range[0]) * 3 * 42 > width ? [1, 3] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(range[0]) - 1; power <= range[1]; power++)
      for (const step of steps) {
        const value = step * 10 ** power;
        if (Math.log10(value) >= range[0] && Math.log10(value) <= range[1]) ticks.push(Number(value.toPrecision(1)));
      }
    return ticks;
  }

  // Names beside baselines and the best, each at the first place where it hides nothing; none, where there is none.
  function names(points, px, width, height) {
    const reach = (p) => p[state.split].map((v, i) => px.of(v ?? p[state.split][0]));
    const taken = points.map((p) => ({ x: px.x(p) - 6, y: px.y(p) - 6, w: 12, h: 12 }));
    const bars = points.map((p) => ({ x: px.x(p) - 1, y: reach(p)[2], w: 2, h: reach(p)[1] - reach(p)[2] }));
    const corners = staircase(points);
    const stairs = corners.slice(1).flatMap((p, i) => { // a level line from corner i to this one, then up
      const [x0, x1, y0, y1] = [px.x(corners[i]), px.x(p), px.y(corners[i]), px.y(p)];
      return [{ x: x0, y: y0 - 1, w: x1 - x0, h: 2 }, { x: x1 - 1, y: Math.min(y0, y1), w: 2, h: Math.abs(y1 - y0) }];
    });
    const free = (a, others) =>
      a.x >= 0 && a.x + a.w <= width && a.y >= 0 && a.y + a.h <= height &&
      !others.some((b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h);
    const named = points.filter((p) => p.id === data.best || p.kind === "baseline");
    const best = (p) => p.id === data.best;
    return named.sort((a, b) => best(b) - best(a)).flatMap((p) => {
      const text = best(p) && p.kind !== "baseline" ? `${data.bestIs}: ${p.id}` : p.id;
      const [w, h, x, y] = [6.9 * text.length + 4, 15, px.x(p), px.y(p)];
      const [, low, high] = reach(p);
      const side = diameter(p) / 2 + 5;
      const places = [
        [x - w / 2, high - 3 - h], [x + side, y - h / 2], [x - w - side, y - h / 2], [x - w / 2, low + 3],
        [x + 4, y - side - h], [x - w - 4, y - side - h], [x + 4, y + side], [x - w - 4, y + side],
      ];
      const boxes = places.map(([left, top]) => ({ x: left, y: top, w, h }));
      const at = boxes.find((a) => free(a, [...taken, ...bars, ...stairs])) ?? boxes.find((a) => free(a, [...taken, ...bars])) ?? (best(p) ? boxes.find((a) => free(a, taken)) : null);
      if (!at) return [];
      taken.push(at);
      return [{
        text: escaped(text), showarrow: false, xref: "paper", yref: "paper", xanchor: "center", yanchor: "middle",
        x: (at.x + w / 2) / width, y: 1 - (at.y + h / 2) / height, borderpad: 0,
        font: { size: 12, color: colour(best(p) ? "best" : "baseline") },
      }];
    });
  }

  // plotly.js reads a few tags in its texts; a name is no tag.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const largest = Math.max(...data.points.map((p) => p.size ?? 0)) || 1;
  const diameter = (p) => (state.axis === "size" || p.size === null ? 11 : Math.max(8, 24 * Math.sqrt(p.size / largest)));

  function markers(points, marker, withBars = true) {
    const bars = (values, minus) => ({
      type: "data", symmetric: false, array: values, arrayminus: minus, thickness: 1, width: 3, color: marker.bar,
    });
    const trace = {
      type: "scatter", mode: "markers", x: points.map((p) => p[state.axis]), y: points.map(score),
      customdata: points.map((p) => p.id), hoverinfo: "none", cliponaxis: false,
      marker: { size: points.map(marker.size ?? diameter), symbol: marker.symbol, color: marker.fill, opacity: 1, line: { color: marker.line, width: 1.5 } },
    };
    if (withBars) {
      const gap = (p, i) => (p[state.split][i] === null ? 0 : Math.abs(p[state.split][i] - p[state.split][0]) * scale);
      trace.error_y = bars(points.map((p) => gap(p, 2)), points.map((p) => gap(p, 1)));
      // The quartiles are not kept one by one: half the distance is drawn to each side.
      if (state.axis === "latency") trace.error_x = bars(points.map((p) => (p.iqr ?? 0) / 2), points.map((p) => (p.iqr ?? 0) / 2));
    }
    return trace;
  }

  const transparent = "rgba(0,0,0,0)";
  function draw() {
    const plottable = counted(state.axis, state.split);
    const above = plottable.filter((p) => score(p) >= floor());
    const far = above.length ? plottable.filter((p) => !above.includes(p)) : [];
    const points = state.close && far.length ? above : plottable;
    tip.hidden = true;
    buttons(far.length);
    tell(plottable, state.close ? far : []);
    if (!points.length) return; // nothing was measured; the buttons never lead here from a picture
    const width = Math.max(80, box.clientWidth - margin.l - margin.r);
    const height = Math.max(80, box.clientHeight - margin.t - margin.b);
    const { x, y, log } = ranges(points);
    const px = {
      x: (p) => (((log ? Math.log10(p[state.axis]) : p[state.axis]) - x[0]) / (x[1] - x[0])) * width,
      y: (p) => px.of(p[state.split][0]),
      of: (value) => (1 - (value * scale - y[0]) / (y[1] - y[0])) * height,
    };
    const is = {
      best: (p) => p.id === data.best,
      baseline: (p) => p.kind === "baseline" && p.id !== data.best,
      frontier: (p) => p.kind === "candidate" && p.frontier && p.id !== data.best,
      dominated: (p) => p.kind === "candidate" && !p.frontier && p.id !== data.best,
    };
    const [accent, best, baseline, page] = ["accent", "best", "baseline", "page"].map(colour);
    const faint = accent + "88";
    const steps = staircase(points);
    const traces = [
      { type: "scatter", mode: "lines", hoverinfo: "skip", line: { shape: "hv", color: accent, width: 1.2, dash: "dot" },
        x: steps.map((p) => p[state.axis]), y: steps.map(score) },
      markers(points.filter(is.dominated), { symbol: "circle-open", fill: faint, line: faint, bar: accent + "30" }),
      markers(points.filter(is.frontier), { symbol: "circle", fill: accent, line: page, bar: accent + "90" }),
      markers(points.filter(is.baseline), { symbol: "diamond", fill: baseline, line: page, bar: baseline + "80" }),
      markers(points.filter(is.best), { symbol: "star", fill: best, line: page, bar: best, size: (p) => 1.25 * diameter(p) + 4 }),
      markers(points.filter((p) => p.id === state.chosen), { symbol: "circle-open", fill: colour("text"), line: colour("text"), size: (p) => diameter(p) + 13 }, false),
    ];
    const layout = {
      autosize: true, margin, showlegend: false, hovermode: "closest", hoverdistance: 24,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      paper_bgcolor: transparent, plot_bgcolor: transparent,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("muted") },
      xaxis: {
        title: { text: AXES[state.axis].title, standoff: 8 }, type: log ? "log" : "linear", range: x,
        ...(log ? { tickvals: logTicks(x, width), ticktext: logTicks(x, width).map(String) } : { nticks: Math.max(3, width / 90) }),
        gridcolor: colour("grid"), zeroline: false, linecolor: colour("line"), showline: true,
      },
      yaxis: {
        title: { text: `${escaped(data.metric)}, ${state.split}`, standoff: 4 }, range: y, ticksuffix: data.share ? "%" : "",
        gridcolor: colour("grid"), zeroline: false, linecolor: colour("line"), showline: true, nticks: Math.max(3, height / 60),
      },
      ...limits(x, y, log),
    };
    layout.annotations.push(...names(points, px, width, height));
    Plotly.react(box, traces, layout, { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset" });
  }

  // The budget's region: a line for each limit, and the corner that keeps both lightly filled.
  function limits(x, y, log) {
    const limit = data.limits[state.axis];
    const cost = limit === null ? null : log ? Math.log10(limit) : limit;
    const least = leastScore();
    const [shapes, annotations] = [[], []];
    const line = { color: colour("bad"), width: 1.3, dash: "dash" };
    const text = (more) => ({ showarrow: false, font: { size: 11.5, color: colour("bad") }, ...more });
    const inX = cost !== null && cost >= x[0] && cost <= x[1];
    const inY = least !== null && least >= y[0] && least <= y[1];
    if (cost !== null || least !== null) {
      const right = cost === null ? x[1] : Math.min(cost, x[1]);
      const bottom = least === null ? y[0] : Math.max(least, y[0]);
      if (right > x[0] && bottom < y[1]) {
        const edge = log ? 10 ** right : right;
        shapes.push({ type: "rect", xref: "x", yref: "y", x0: log ? 10 ** x[0] : x[0], x1: edge, y0: bottom, y1: y[1],
          line: { width: 0 }, fillcolor: colour("good"), opacity: 0.07, layer: "below" });
      }
    }
    if (inX) {
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: limit, x1: limit, y0: 0, y1: 1, line, layer: "below" });
      annotations.push(text({ text: ` limit ${limit} ${AXES[state.axis].unit}`, xref: "x", yref: "paper", x: cost, y: 0, xanchor: "left", yanchor: "bottom" }));
    } else if (cost !== null) {
      annotations.push(text({ text: cost > x[1] ? `limit ${limit} ${AXES[state.axis].unit} →` : `← limit ${limit} ${AXES[state.axis].unit}`,
        xref: "paper", yref: "paper", x: cost > x[1] ? 1 : 0, y: 0, xanchor: cost > x[1] ? "right" : "left", yanchor: "bottom" }));
    }
    if (inY) {
      shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: least, y1: least, line, layer: "below" });
      annotations.push(text({ text: `most that may be lost`, xref: "paper", yref: "y", x: 1, y: least, xanchor: "right", yanchor: "top" }));
    }
    return { shapes, annotations };
  }

  // What the picture does not say by itself.
  function tell(plottable, below) {
    const missing = data.points.length - plottable.length;
    const count = (n, rest) => `${n} point${n === 1 ? "" : "s"} ${rest}`;
    note.textContent = [
      "Up and to the left is better.",
      state.axis === "size" ? "" : "The area of a mark is the size on disk.",
      state.split === "test" ? "Upright bars: 95% interval of the score." : "Upright bars: 95% interval of the drop, paired with the original.",
      state.axis === "latency" ? "Level bars: the distance between the quartiles." : "",
      missing ? count(missing, `not shown: ${AXES[state.axis].name.toLowerCase()} or ${state.split} score not measured.`) : "",
      below.length ? count(below.length, `far below the picture: ${below.slice(0, 3).map((p) => p.id).join(", ")}${below.length > 3 ? ", …" : ""}.`) : "",
      "A point opens its recipe and figures.",
    ].filter(Boolean).join(" ");
  }

  function fill(id, choices, key) {
    const group = document.getElementById(id);
    if (choices.length < 2) return group.replaceChildren();
    if (group.children.length !== choices.length)
      group.replaceChildren(...choices.map(([value, name]) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = name;
        button.addEventListener("click", () => { state[key] = value; draw(); });
        return button;
      }));
    choices.forEach(([value], i) => group.children[i].setAttribute("aria-pressed", String(state[key] === value)));
  }

  function buttons(far) {
    fill("axis-buttons", Object.keys(AXES).filter((a) => counted(a, state.split).length).map((a) => [a, AXES[a].name]), "axis");
    fill("score-buttons", Object.keys(SPLITS).filter((s) => counted(state.axis, s).length).map((s) => [s, SPLITS[s]]), "split");
    fill("range-buttons", far ? [[true, "Close up"], [false, "All"]] : [], "close");
  }

  function showTip(event) {
    const hit = event.points[0];
    const point = data.points.find((p) => p.id === hit.customdata);
    if (!point) return;
    const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
    const list = document.createElement("dl");
    for (const [name, value] of point.lines) list.append(make("dt", name), make("dd", value));
    tip.replaceChildren(make("b", point.label === point.id ? point.id : `${point.id} – ${point.label}`), list);
    if (point.recipe) tip.append(make("pre", point.recipe));
    tip.hidden = false;
    // Beside the point, within the chart.
    const left = box.offsetLeft + margin.l + hit.xaxis.d2p(hit.x);
    const top = box.offsetTop + margin.t + hit.yaxis.d2p(hit.y);
    const room = box.parentElement.clientWidth - tip.offsetWidth;
    const beside = left + 18 <= room ? left + 18 : left - 18 - tip.offsetWidth;
    const fits = beside >= 0 && beside <= room;
    tip.style.left = `${fits ? beside : Math.max(0, Math.min(room, left - tip.offsetWidth / 2))}px`;
    tip.style.top = `${fits ? Math.max(0, top - tip.offsetHeight / 2) : top + 22}px`;
  }

  // Choosing a point, from wherever: the chart, the table, the list, or a link.
  const chooser = document.getElementById("choose");
  const articles = [...document.querySelectorAll("#chosen > article")];
  function choose(id) {
    if (!articles.some((article) => article.dataset.point === id)) return;
    state.chosen = id;
    chooser.value = id;
    for (const article of articles) article.hidden = article.dataset.point !== id;
    for (const row of document.querySelectorAll("[data-row]")) row.classList.toggle("chosen", row.dataset.row === id);
    draw();
  }

  for (const hidden of document.querySelectorAll(".controls, .choose")) hidden.hidden = false;
  choose(state.chosen);
  if (box.on) {
    box.on("plotly_hover", showTip);
    box.on("plotly_unhover", () => { tip.hidden = true; });
    box.on("plotly_click", (event) => choose(event.points[0].customdata));
  }
  chooser.addEventListener("change", () => choose(chooser.value));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-choose]");
    if (link) choose(link.dataset.choose);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    requestAnimationFrame(draw);
  }).observe(box);
})();
