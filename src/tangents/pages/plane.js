(root => {
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const svg = root.querySelector("svg"), told = root.querySelector("output");
  const [panelBox, xBox, markBox] = root.querySelectorAll("select");
  const hidden = new Set();
  let order = [], chosen = null;

  // Marks of the groups, around the origin: never a colour alone.
  const SHAPES = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4H4V4H-4Z", "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
    "M0,-5L5,4H-5Z", "M0,5L5,-4H-5Z"];
  const make = (name, attributes, parent = svg) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return parent.appendChild(node);
  };
  const number = v => (Math.abs(v) >= 0.001 || v === 0 ? String(+v.toPrecision(3)) : v.toExponential(1)).replace("-", "−");

  const ticks = (low, high, log) => {
    if (log) return Array.from({length: Math.floor(high) - Math.ceil(low) + 1}, (_, k) => Math.ceil(low) + k);
    const raw = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find(k => k * unit >= raw) * unit;
    return Array.from({length: Math.floor(high / step) - Math.ceil(low / step) + 1}, (_, k) => (Math.ceil(low / step) + k) * step);
  };

  const draw = () => {
    const k = +xBox.value, log = data.x[k].log, at = v => log ? Math.log10(v) : v;
    const here = data.points.filter(p => p.panel === +panelBox.value && (!log || p.x[k] > 0));
    const seen = here.filter(p => !hidden.has(p.group));
    const width = Math.max(300, root.clientWidth), height = Math.min(460, Math.max(320, 0.65 * width));
    const left = 46, right = 12, top = 14, bottom = 46;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const ends = values => {
      const low = Math.min(...values), high = Math.max(...values), pad = 0.05 * (high - low || 1);
      return [low - pad, high + pad];
    };
    if (!here.length) return;
    const [x0, x1] = ends(here.map(p => at(p.x[k]))), [y0, y1] = ends([0, ...here.map(p => p.y)]);
    const X = v => left + (at(v) - x0) / (x1 - x0) * (width - left - right);
    const Y = v => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
    for (const t of ticks(y0, y1, false)) {
      make("line", {x1: left, x2: width - right, y1: Y(t), y2: Y(t), class: Math.abs(t) < 1e-9 ? "zero" : "grid"});
      make("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}).textContent = number(+t.toFixed(9));
    }
    for (const t of ticks(x0, x1, log)) {
      const x = left + (t - x0) / (x1 - x0) * (width - left - right);
      make("line", {x1: x, x2: x, y1: top, y2: height - bottom, class: "grid"});
      make("text", {x, y: height - bottom + 17, "text-anchor": "middle"}).textContent = log ? number(10 ** t) : number(+t.toFixed(9));
    }
    make("text", {x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle"}).textContent = data.x[k].label;
    make("text", {x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(top + height - bottom) / 2})`}).textContent = data.y;
    const mark = markBox.value, inMark = p => !mark || p.marks.includes(mark), marked = here.filter(inMark);
    if (mark && marked.length) {
      const places = marked.map(p => X(p.x[k])), low = Math.min(...places), high = Math.max(...places);
      make("rect", {x: low - 6, width: high - low + 12, y: top, height: height - top - bottom, class: "band"});
    }
    order = seen.slice().sort((a, b) => a.x[k] - b.x[k]);
    for (const p of order) {
      const node = make("path", {d: SHAPES[p.group % SHAPES.length], fill: data.groups[p.group].colour,
        transform: `translate(${X(p.x[k])},${Y(p.y)})`, class: inMark(p) ? "" : "faded"});
      node.addEventListener("pointerenter", () => tell(p));
      node.addEventListener("click", () => tell(p));
      p.place = [X(p.x[k]), Y(p.y)];
    }
    if (chosen && order.includes(chosen)) tell(chosen);
  };

  const ring = () => {
    svg.querySelectorAll(".ring").forEach(node => node.remove());
    if (chosen && order.includes(chosen)) make("circle", {cx: chosen.place[0], cy: chosen.place[1], r: 9, class: "ring"});
  };

  const tell = p => {
    chosen = p;
    const k = +xBox.value, code = document.createElement("code");
    code.textContent = p.command;
    told.replaceChildren(`${p.text}: ${data.x[k].label} ${number(p.x[k])}, ${data.y} ${number(p.y)}. Run it again: `, code);
    ring();
  };

  svg.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (!step || !order.length) return;
    event.preventDefault();
    const place = order.indexOf(chosen);
    tell(order[place < 0 ? (step > 0 ? 0 : order.length - 1) : (place + step + order.length) % order.length]);
  });
  root.querySelectorAll("button").forEach((button, group) => button.addEventListener("click", () => {
    hidden.has(group) ? hidden.delete(group) : hidden.add(group);
    button.setAttribute("aria-pressed", !hidden.has(group));
    draw();
  }));
  root.querySelectorAll("button svg path").forEach((node, group) => node.setAttribute("d", SHAPES[group % SHAPES.length]));
  [panelBox, xBox, markBox].forEach(box => box.addEventListener("change", draw));
  window.addEventListener("resize", draw);
  draw();
})
