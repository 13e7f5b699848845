// Curves: fetched from the page's server, and kept up to date by its events.
"use strict";

const charts = new Map();
const ROLES = ["--train", "--validation", "--third", "--fourth"];
const DASHES = [[], [8, 4], [2, 3]];
const number = (value) => value === null || value === undefined ? "–" : Math.abs(value) >= 1e-3 || value === 0 ? value.toFixed(4) : value.toExponential(2);

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function styles(series) {
  const runs = new Set(series.map((one) => one.run)).size;
  let alone = 0;
  return series.map((one) => {
    // one run: a colour for each metric; several: a colour for each run, and dashes for its validation
    const place = runs > 1 ? one.run : alone++;
    const dash = runs > 1 ? (one.is_validation ? 1 : 0) + 2 * Math.floor(place / ROLES.length) : Math.floor(place / ROLES.length);
    return {
      label: one.label,
      stroke: color(ROLES[place % ROLES.length]),
      width: one.is_validation ? 2 : 1.5,
      dash: DASHES[dash % DASHES.length],
      spanGaps: true,
      points: { show: (u, index) => u.data[index].filter((value) => value !== null).length < 30, size: 5 },
      value: (_, value) => number(value),
    };
  });
}

function marks(data) {
  // vertical lines where an epoch begins, and triangles at checkpoints
  return (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--soft");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.textAlign = "left";
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    data().epochs.forEach((step, index) => {
      const x = Math.round(u.valToPos(step, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) return;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(`epoch ${index + 2}`, x + 3 * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
    });
    ctx.setLineDash([]);
    data().checkpoints.forEach((step) => {
      const x = u.valToPos(step, "x", true), y = bbox.top + bbox.height, size = 5 * devicePixelRatio;
      if (x < bbox.left || x > bbox.left + bbox.width) return;
      ctx.beginPath();
      ctx.moveTo(x, y - 2 * size);
      ctx.lineTo(x + size, y);
      ctx.lineTo(x - size, y);
      ctx.fill();
    });
    ctx.restore();
  };
}

class Chart {
  constructor(element) {
    this.element = element;
    this.isLogarithmic = element.dataset.scale === "log";
    this.data = null;
    this.zoom = null;
    this.plot = null;
    element.addEventListener("keydown", (event) => this.onKey(event));
    element.addEventListener("dblclick", () => { this.zoom = null; this.load(); });
    new ResizeObserver(() => this.resize()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(true));
    if (!element.closest("[hidden]")) this.load();
  }

  async load() {
    const url = new URL(this.element.dataset.src, location.href);
    if (this.zoom) {
      url.searchParams.set("start", Math.floor(this.zoom[0]));
      url.searchParams.set("end", Math.ceil(this.zoom[1]));
    }
    const response = await fetch(url, { headers: { accept: "application/json" } });
    if (response.ok) this.show(await response.json());
  }

  show(data) {
    const isSame = this.data && JSON.stringify(this.data.series) === JSON.stringify(data.series);
    this.data = data;
    this.element.parentElement.hidden = false;
    this.element.setAttribute("aria-label", data.sentence);
    this.element.parentElement.querySelector(".sentence").textContent = data.sentence;
    this.draw(!isSame);
  }

  size() {
    return { width: Math.max(this.element.clientWidth, 100), height: this.element.clientWidth < 640 ? 200 : 280 };
  }

  resize() {
    if (!this.plot) return;
    const size = this.size();
    if (size.width !== this.plot.width || size.height !== this.plot.height) this.plot.setSize(size);
  }

  draw(isNew) {
    if (!this.data) return;
    const drawn = (value) => this.isLogarithmic && value <= 0 ? null : value;
    const values = [this.data.steps, ...this.data.values.map((column) => column.map(drawn))];
    if (this.plot && !isNew) {
      this.plot.setData(values);
      return;
    }
    this.plot?.destroy();
    const line = color("--line"), ink = color("--soft");
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
    this.plot = new uPlot({
      ...this.size(),
      series: [{ label: "step", value: (_, value) => value === null || value === undefined ? "–" : value.toLocaleString("en") }, ...styles(this.data.series)],
      scales: {
        x: { time: false, range: (u, low, high) => this.zoom || [low, this.data.total && !this.zoom ? Math.max(high, this.data.total) : high] },
        y: this.isLogarithmic ? { distr: 3, log: 10 } : {},
      },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => Number.isInteger(tick) ? tick.toLocaleString("en") : "") }, { ...axis, size: 56 }],
      cursor: { drag: { x: true, y: false, setScale: false } },
      hooks: {
        draw: [marks(() => this.data)],
        setSelect: [(u) => {
          if (u.select.width < 5) return;
          this.zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.load();
        }],
      },
    }, values, this.element);
  }

  onKey(event) {
    if (!this.plot || !["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;  // Alt and an arrow key go back in the history
    event.preventDefault();
    if (event.key === "Escape") { this.zoom = null; this.load(); return; }
    const last = this.data.steps.length - 1, now = this.plot.cursor.idx ?? -1;
    const index = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    this.plot.setCursor({ left: this.plot.valToPos(this.data.steps[index], "x"), top: 10 });
  }
}

document.querySelectorAll(".plot[data-src]").forEach((element) => charts.set(element.dataset.group, new Chart(element)));
document.addEventListener("points", (event) => {
  for (const [group, data] of Object.entries(JSON.parse(event.detail.data))) {
    const chart = charts.get(group);
    if (chart && !chart.zoom) chart.show(data);
  }
});
