// Layers as points: arithmetic intensity against the rate that each reaches, under the roofs of the device; without a
// device, against its work. Alike layers are one point. Both axes are logarithmic.
(() => {
  "use strict";
  const { data, colour, escaped, sum, MARKS, NETWORKS, markOf, prefixed, logTicks, axis, layout, react, hover, keepDrawn, told } = charts;
  const box = document.getElementById("roofline-chart");
  if (!box) return;
  const { roofs } = data;
  const margin = { l: 72, r: 16, t: 14, b: 50 };
  const several = data.views.length > 1;
  const points = data.views.flatMap((view, number) =>
    view.points.filter((p) => p.flops > 0 && (!roofs || p.ms > 0)).map((p) => ({ ...p, view: number })));
  const height = (p) => (roofs ? (1e3 * p.flops) / p.ms : p.flops / p.count);
  const weight = (p) => (roofs ? p.ms : p.flops);
  const log = Math.log10;

  function ranges() {
    const xs = points.map((p) => p.intensity);
    const ys = points.map(height);
    let [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (roofs) {
      right = Math.max(4 * right, 5 * (roofs.peak / roofs.bandwidth)); // room for the names of the peaks
      left = Math.min(left, roofs.peak / roofs.bandwidth / 10);
      top = Math.max(...roofs.peaks.map((p) => p.rate).filter((rate) => rate < 20 * roofs.peak), top);
    }
    return { x: [log(left) - 0.2, log(right) + 0.2], y: [log(bottom) - 0.35, log(top) + 0.3] };
  }

  // The roof that holds here is thick; other data types and memory levels are thin, each named at its line.
  function roofLines(x, y, px, marks) {
    const traces = [], annotations = [], taken = [];
    const line = (from, to, main) => traces.push({
      type: "scatter", mode: "lines", hoverinfo: "skip", cliponaxis: true,
      x: [10 ** from, 10 ** to], y: [main.at(10 ** from), main.at(10 ** to)],
      line: { color: colour(main.is ? "text" : "muted"), width: main.is ? 2.2 : 1, dash: main.is ? "solid" : "dot" },
    });
    const label = (text, atX, atY, angle, anchor, main, shift) => annotations.push({
      text: escaped(text), showarrow: false, x: atX, y: atY, xref: "x", yref: "y", textangle: angle,
      xanchor: anchor, yanchor: "middle", yshift: shift[1], xshift: shift[0],
      font: { size: 11.5, color: colour(main ? "text" : "muted") },
      bgcolor: colour("page") + "c0", borderpad: 0,
    });
    const slope = Math.atan2(px.height / (y[1] - y[0]), px.width / (x[1] - x[0]));
    for (const { name, rate, main } of roofs.bandwidths) {
      const end = Math.min(x[1], log(roofs.peak / rate));
      line(x[0], end, { at: (v) => v * rate, is: main });
      // The name stands above its line, a little in from where the line enters the picture.
      const start = Math.max(x[0], y[0] - log(rate));
      const text = `${name} ${prefixed(rate, "B/s")}`;
      const half = (3.3 * text.length + 10) * Math.cos(slope) / px.width * (x[1] - x[0]);
      const middle = Math.min(end - half, Math.max(start + half, main ? start + 0.55 * (end - start) : start + half));
      if (end - start <= 1.6 * half) continue;
      const left = ((middle - x[0]) / (x[1] - x[0])) * px.width;
      const top = (1 - (middle + log(rate) - y[0]) / (y[1] - y[0])) * px.height;
      for (let step = -4; step <= 4; step += 1) {
        // The room that the slanting name takes.
        const far = (step / 8) * 6.4 * text.length;
        const [a, b] = [left + far * Math.cos(slope) - 9 * Math.sin(slope), top - far * Math.sin(slope) - 9 * Math.cos(slope)];
        taken.push({ x: a - 6, y: b - 6, w: 12, h: 12 });
      }
      label(text, middle, middle + log(rate), (-slope * 180) / Math.PI, "center", main, [-9 * Math.sin(slope), 9 * Math.cos(slope)]);
    }
    // Peaks that lie together have one line, the one that holds before the highest; its name stands at the right
    // end, above the line or below, wherever it hides nothing.
    const drawn = [];
    for (const { name, rate, main } of roofs.peaks) {
      const at = px.height * (1 - (log(rate) - y[0]) / (y[1] - y[0]));
      if (at < 0 || log(rate / roofs.bandwidth) >= x[1] || drawn.some((other) => Math.abs(other - at) < 16)) continue;
      drawn.push(at);
      line(log(rate / roofs.bandwidth), x[1], { at: () => rate, is: main });
      const text = `${name} ${prefixed(rate, "FLOP/s")}`;
      const w = 6.4 * text.length + 4;
      const place = (main ? [9, -9, -22] : [-9, 9]).map((shift) => ({ shift, box: { x: px.width - w, y: at + shift - 7, w, h: 14 } }))
        .find(({ box: a }) => !overlaps(a, [...taken, ...marks]));
      if (!place) continue;
      taken.push(place.box);
      label(text, x[1], log(rate), 0, "right", main, [-2, -place.shift]);
    }
    return { traces, annotations, taken };
  }

  const diameter = (p, whole) => Math.max(6, Math.min(30, 60 * Math.sqrt(weight(p) / whole)));

  const overlaps = (a, others) =>
    others.some((b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h);

  // The heaviest points by name, each at the first place where it hides nothing.
  function names(px, whole, taken) {
    const left = several ? [] : [...points].sort((a, b) => weight(b) - weight(a)).slice(0, 6);
    const free = (a) => a.x >= 0 && a.x + a.w <= px.width && a.y >= 0 && a.y + a.h <= px.height && !overlaps(a, taken);
    return left.flatMap((p) => {
      const text = p.short + (p.count > 1 ? ` ×${p.count}` : "");
      const [w, h, x, y, r] = [6.3 * text.length + 6, 15, px.x(p), px.y(p), diameter(p, whole) / 2 + 4];
      const places = [[x + r, y - h / 2], [x - w - r, y - h / 2], [x - w / 2, y + r], [x + 4, y + r], [x + r, y + 6],
        [x - w - 4, y + r], [x - w / 2, y - r - h], [x - w / 2, y + r + 16], [x - w / 2, y - r - 2 * h]];
      const at = places.map(([a, b]) => ({ x: a, y: b, w, h })).find(free);
      if (!at) return [];
      taken.push(at);
      return [{
        text: escaped(text), showarrow: false, xref: "paper", yref: "paper", xanchor: "center", yanchor: "middle",
        x: (at.x + w / 2) / px.width, y: 1 - (at.y + h / 2) / px.height, borderpad: 0,
        font: { size: 11.5, color: colour("text") },
      }];
    });
  }

  function draw() {
    const { x, y } = ranges();
    const px = {
      width: Math.max(80, box.clientWidth - margin.l - margin.r),
      height: Math.max(80, box.clientHeight - margin.t - margin.b),
      x: (p) => ((log(p.intensity) - x[0]) / (x[1] - x[0])) * px.width,
      y: (p) => (1 - (log(height(p)) - y[0]) / (y[1] - y[0])) * px.height,
    };
    const whole = data.views.map((_, i) => sum(points.filter((p) => p.view === i).map(weight)));
    const groups = several
      ? NETWORKS.map((mark, i) => [mark, points.filter((p) => p.view === i)])
      : Object.entries(MARKS).map(([key, mark]) => [mark, points.filter((p) => markOf(p) === key)]);
    const drawn = groups.filter(([, members]) => members.length).map(([mark, members]) => ({
      type: "scatter", mode: "markers", hoverinfo: "none", cliponaxis: false,
      x: members.map((p) => p.intensity), y: members.map(height), customdata: members.map((p) => points.indexOf(p)),
      marker: {
        symbol: mark.symbol, color: colour(mark.colour), opacity: 0.72, line: { color: colour("page"), width: 1 },
        size: members.map((p) => diameter(p, whole[p.view])),
      },
    }));
    const marks = points.map((p) => {
      const r = diameter(p, whole[p.view]) / 2;
      return { x: px.x(p) - r, y: px.y(p) - r, w: 2 * r, h: 2 * r };
    });
    const lines = roofs ? roofLines(x, y, px, marks) : { traces: [], annotations: [], taken: [] };
    const roof = roofs ? Array.from({ length: 101 }, (_, i) => {
      // No name may lie on the roof that holds.
      const at = x[0] + (i / 100) * (x[1] - x[0]);
      const rate = Math.min(log(roofs.peak), at + log(roofs.bandwidth));
      return { x: (i / 100) * px.width - 4, y: (1 - (rate - y[0]) / (y[1] - y[0])) * px.height - 2, w: 8, h: 4 };
    }) : [];
    react(box, [...lines.traces, ...drawn], layout(margin, {
      xaxis: axis({ type: "log", range: x, title: { text: "arithmetic intensity, FLOP per byte", standoff: 8 },
        ...logTicks(x, px.width, (v) => String(v)) }),
      yaxis: axis({ type: "log", range: y, title: { text: roofs ? "rate, FLOP/s" : "work of a layer, FLOP", standoff: 4 },
        ...logTicks(y, 1.3 * px.height, (v) => prefixed(v, "").trim()) }),
      annotations: [...lines.annotations, ...names(px, Math.max(...whole), [...roof, ...marks, ...lines.taken])],
    }));
  }

  keepDrawn(box, draw);
  hover(box, margin, (hit) => {
    const p = points[hit.customdata];
    const extra = [["Rate", prefixed(height(p), "FLOP/s")]];
    const alike = p.count > 1 ? [["Layers", `${p.count} alike`]] : [];
    return [(several ? `${data.views[p.view].name}: ` : "") + p.name, [...alike, ...told(p), ...(roofs ? extra : [])]];
  });
})();
