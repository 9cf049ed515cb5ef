// The last 60 seconds: latency as lines (left axis), drops per second as bars (right axis).

const SPAN = 60;
const LEFT = 40, RIGHT = 34, TOP = 20, BOTTOM = 20;

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.last = [];
    this.median = [];
    this.drops = new Map();
    this.dropped = null;
    this.draw();
  }

  addLatency(ms) {
    if (ms === null) return; // of a file nobody waits for
    const now = performance.now() / 1e3, before = this.last.at(-1);
    // A plot this small shows no more than ten points a second: the largest of each is kept.
    if (before && now - before[0] < 0.1) before[1] = Math.max(before[1], ms);
    else this.last.push([now, ms]);
    this.forget(now);
  }

  addStats(stats) {
    const now = performance.now() / 1e3;
    if (stats.p50_ms !== null) this.median.push([now, stats.p50_ms]);
    if (this.dropped !== null && stats.dropped > this.dropped) {
      const second = Math.floor(now);
      this.drops.set(second, (this.drops.get(second) || 0) + stats.dropped - this.dropped);
    }
    this.dropped = stats.dropped;
    this.forget(now);
  }

  // A tab stays open for days.
  forget(now) {
    const old = now - SPAN - 1;
    while (this.last.length && this.last[0][0] < old) this.last.shift();
    while (this.median.length && this.median[0][0] < old) this.median.shift();
    for (const second of this.drops.keys()) if (second < old) this.drops.delete(second);
  }

  // Drops in the last whole second.
  get dropRate() {
    return this.drops.get(Math.floor(performance.now() / 1e3) - 1) || 0;
  }

  draw() {
    const { canvas, context } = this;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas), colour = (name) => style.getPropertyValue(name).trim();
    const now = performance.now() / 1e3;
    const x = (t) => LEFT + (width - LEFT - RIGHT) * (1 - (now - t) / SPAN);
    const floor = height - BOTTOM, room = floor - TOP;
    const most = nice([...this.last, ...this.median].reduce((top, p) => Math.max(top, p[1]), 10));
    const mostDrops = nice([...this.drops.values()].reduce((top, count) => Math.max(top, count), 4));
    const frame = { context, width, height, floor, room, x, now };
    this.axes(frame, most, mostDrops, colour("--quiet"), colour("--line"));
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP - 4, width - LEFT - RIGHT, room + 4);
    context.clip();
    context.fillStyle = colour("--drop");
    const step = Math.max(2, (width - LEFT - RIGHT) / SPAN - 1.5);
    for (const [second, count] of this.drops) {
      const tall = Math.max(2, (count / mostDrops) * room);
      context.fillRect(x(second + 1) - step, floor - tall, step, tall);
    }
    const y = (ms) => floor - (ms / most) * room;
    this.line(frame, this.last, y, colour("--last"), 1.25);
    this.line(frame, this.median, y, colour("--p50"), 2);
    context.restore();
  }

  axes({ context, width, floor, room, height }, most, mostDrops, quiet, line) {
    context.font = '11px system-ui, sans-serif';
    context.fillStyle = quiet;
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(floor - part * room) + 0.5;
      context.beginPath();
      context.moveTo(LEFT, y);
      context.lineTo(width - RIGHT, y);
      context.stroke();
      context.textAlign = "right";
      context.fillText(short(most * part), LEFT - 6, y);
      context.textAlign = "left";
      context.fillText(short(mostDrops * part), width - RIGHT + 6, y);
    }
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("ms", LEFT, TOP - 8);
    context.textAlign = "right";
    context.fillText("drops/s", width - RIGHT, TOP - 8);
    context.fillText("now", width - RIGHT, height - 5);
    context.textAlign = "center";
    context.fillText("−30 s", LEFT + (width - LEFT - RIGHT) / 2, height - 5);
    context.textAlign = "left";
    context.fillText("−60 s", LEFT, height - 5);
  }

  line({ context, x }, points, y, colour, thick) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.lineJoin = "round";
    context.beginPath();
    let before = -Infinity;
    for (const [t, value] of points) {
      // Where nothing came for two seconds there is a gap, not a line.
      if (t - before > 2) context.moveTo(x(t), y(value));
      else context.lineTo(x(t), y(value));
      before = t;
    }
    context.stroke();
  }
}

// The next 1, 2, 4, 5 or 10 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].find((step) => step * power >= value * 0.999) * power;
}

function short(value) {
  return value >= 10000 ? `${Math.round(value / 1000)}k` : String(Math.round(value * 10) / 10);
}
