// The page: joins the stream, the picture, the classes, the plot and the controls.

import { Classes } from "./classes.js";
import { Picture } from "./picture.js";
import { Plot } from "./plot.js";
import { Stream } from "./stream.js";

const $ = (id) => document.getElementById(id);
const STORE = "segdeploy.view";
const CALM_MS = 500;

// The token has become a cookie: it need not stay in the address, the history or a bookmark.
if (new URLSearchParams(location.search).has("token")) {
  history.replaceState(null, "", location.pathname);
}

const settings = { mode: "overlay", opacity: 50, off: [], source: "", ...stored() };
const picture = new Picture($("picture"));
const plot = new Plot($("plot"));
const classes = new Classes(
  {
    list: $("classes"), filter: $("filter"), all: $("all"), none: $("none"), count: $("count"),
    noMatch: $("no-match"),
  },
  (off) => {
    picture.setClasses(info?.palette ?? [], off);
    // Switched-off classes of other models stay remembered.
    const own = new Set(info?.classes ?? []);
    settings.off = [
      ...settings.off.filter((name) => !own.has(name)),
      ...[...off].map((index) => info.classes[index]),
    ];
    store();
  },
);
let info = null;
let connected = false;
let newest = null; // the frame that waits for being decoded
let decoding = false;
let counted = -Infinity;
let refusal = "";

const stream = new Stream({
  info(fresh) {
    const same = info && JSON.stringify(fresh) === JSON.stringify(info);
    info = fresh;
    if (!same) begin();
  },
  connected() {
    connected = true;
    refusal = "";
    document.body.classList.remove("lost");
    trouble("");
    state("starting", "connected");
  },
  lost(sentence, delay) {
    connected = false;
    document.body.classList.add("lost");
    state("lost", "connection lost");
    const again = `Trying again in ${delay < 1000 ? "a moment" : `${Math.round(delay / 1000)} s`}.`;
    trouble(`${sentence || "The connection is lost."} ${again}`);
    $("record").disabled = true;
  },
  message(header, jpeg, png) {
    if (header.kind === "state") {
      showState(header);
    } else if (header.source === stream.source) {
      newest = [header, jpeg, png];
      plot.addLatency(header.latency_ms);
      if (!decoding) decode();
    }
  },
});

// Decodes one frame after the other, always the newest: older ones are left out.
async function decode() {
  decoding = true;
  try {
    while (newest) {
      const [header, jpeg, png] = newest;
      newest = null;
      const wanted = () => header.source === stream.source;
      if (await picture.show(header, jpeg, png, wanted)) showFrame(header);
    }
  } catch (error) {
    trouble(`A picture could not be shown: ${error.message}`);
  } finally {
    decoding = false;
  }
}

function begin() {
  $("version").textContent = `segdeploy ${info.version}`;
  $("warning").hidden = !info.random_weights;
  const { sources } = info, many = sources.length > 1;
  $("source").replaceChildren(...sources.map((name, index) => new Option(name, index)));
  $("source").hidden = !many;
  $("source-name").hidden = many;
  $("source-name").textContent = sources[0];
  choose(Math.max(0, sources.indexOf(settings.source)));
  classes.set(info.classes, info.palette, settings.off);
}

function choose(source) {
  stream.source = source;
  $("source").value = source;
  $("mjpeg").href = `stream.mjpg?source=${source}`;
  document.title = `${info.sources[source]} · segdeploy`;
  plot.clear();
  // Another camera's picture under this one's name would be a lie.
  newest = null;
  picture.clear();
  classes.clear();
  $("empty").hidden = false;
  $("snapshot").disabled = true;
  $("t-latency").replaceChildren("–");
  showUnder();
}

function showFrame(header) {
  $("empty").hidden = true;
  $("snapshot").disabled = false;
  $("picture").dataset.index = header.index;
  $("t-latency").replaceChildren(number(header.latency_ms), small(" ms"));
  const now = performance.now();
  if (now - counted > CALM_MS) {
    counted = now;
    classes.update(header.shares);
    showUnder();
  }
}

function showState({ stats, recorders, errors, viewers }) {
  const own = stats[stream.source];
  $("viewers").textContent = viewers === 1 ? "1 viewer" : `${viewers} viewers`;
  showRecorder(recorders[stream.source]);
  if (own) {
    state(own.state, own.state);
    trouble(refusal || errors[stream.source] || own.error);
    plot.addStats(own);
    showTiles(own);
  } else {
    state("running", "connected");
    trouble(refusal || errors[stream.source]);
  }
  plot.draw();
}

function showTiles(own) {
  $("t-quantiles").textContent = `p50 ${whole(own.p50_ms)} · p99 ${whole(own.p99_ms)} ms`;
  $("t-fps").replaceChildren(own.fps_shown.toFixed(1), small(" fps"));
  $("t-in").textContent = `of ${own.fps_in.toFixed(1)} fps in`;
  $("t-dropped").replaceChildren(grouped(own.dropped), small(` · ${plot.dropRate}/s`));
  $("t-frames").textContent = `of ${grouped(own.frames_in)} frames`;
  $("t-size").textContent = own.size.replace("x", " × ") || "–";
  const parts = [[own.stalls, "stalls"], [own.reconnects, "reconnects"], [own.corrupt, "corrupt"]];
  const told = parts.filter(([count]) => count).map(([count, what]) => `${grouped(count)} ${what}`);
  if (own.flicker !== null) told.push(`${(own.flicker * 100).toFixed(2)} % flicker`);
  $("t-stalls").textContent = $("t-stalls").title = told.join(" · ") || "no stalls";
}

function showRecorder(one) {
  const button = $("record"), line = $("recording");
  button.disabled = !connected || !one.possible;
  button.title = one.possible ? "" : "Recording is switched off on this device";
  button.setAttribute("aria-pressed", one.on);
  button.lastElementChild.textContent = one.on ? `Stop ${clock(one.seconds)}` : "Record";
  let text = one.error;
  if (!text && (one.on || one.finishing)) {
    const left = one.dropped ? ` · ${grouped(one.dropped)} left out` : "";
    text = `${one.finishing ? "Finishing" : "Recording"} ${one.name} · `
      + `${grouped(one.frames)} frames${left}`;
  }
  line.hidden = !text;
  line.classList.toggle("bad", Boolean(one.error));
  if (line.textContent !== text) line.textContent = text;
  showFiles(one.files);
}

function showFiles(files) {
  const key = JSON.stringify(files);
  if (showFiles.key === key) return;
  showFiles.key = key;
  $("files-panel").hidden = !files.length;
  $("files").replaceChildren(...files.map(({ name, frames, dropped }) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = `recordings/${encodeURIComponent(name)}`;
    link.download = link.textContent = name;
    const count = document.createElement("span");
    const left = dropped ? ` · ${grouped(dropped)} left out` : "";
    count.textContent = `${grouped(frames)} frames${left}`;
    item.append(link, count);
    return item;
  }));
}

function state(kind, text) {
  const place = $("state"), words = place.lastElementChild;
  place.dataset.state = kind;
  if (words.textContent !== text) words.textContent = text;
}

function trouble(text) {
  const place = $("trouble");
  place.hidden = !text;
  if (place.textContent !== text) place.textContent = text;
}

// Controls

for (const input of document.querySelectorAll("input[name=mode]")) {
  input.checked = input.value === settings.mode;
  input.addEventListener("change", () => {
    settings.mode = input.value;
    look();
  });
}

$("opacity").value = settings.opacity;
$("opacity").addEventListener("input", () => {
  settings.opacity = Number($("opacity").value);
  look();
});

function look() {
  picture.mode = settings.mode;
  picture.opacity = settings.opacity / 100;
  picture.draw();
  const slider = $("opacity"), only = settings.mode === "overlay";
  slider.disabled = !only;
  slider.parentElement.classList.toggle("off", !only);
  slider.style.setProperty("--at", `${settings.opacity}%`);
  $("opacity-value").textContent = `${settings.opacity} %`;
  store();
}

$("source").addEventListener("change", () => {
  const source = Number($("source").value);
  settings.source = info.sources[source];
  store();
  choose(source);
  counted = -Infinity;
  stream.restart();
});

$("snapshot").addEventListener("click", async () => {
  const name = info.sources[stream.source].replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const index = String($("picture").dataset.index).padStart(6, "0");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await picture.png());
  link.download = `${name || "source"}_${index}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

$("record").addEventListener("click", async () => {
  const on = $("record").getAttribute("aria-pressed") !== "true";
  $("record").disabled = true;
  refusal = "";
  try {
    const answer = await fetch("record", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Segdeploy": "1" },
      body: JSON.stringify({ source: stream.source, on }),
    });
    if (answer.headers.get("Content-Type") === "application/json") {
      showRecorder(await answer.json());
    } else {
      refusal = await answer.text();
    }
  } catch {
    refusal = "The board did not answer: nothing was recorded.";
  }
  trouble(refusal);
  // It is no state of the stream, whose own troubles want the place.
  setTimeout(() => { refusal = ""; }, 8000);
  $("record").disabled = !connected;
});

// The class under the pointer or finger.

const place = $("picture");
let pointer = null;
for (const kind of ["pointermove", "pointerdown"]) {
  place.addEventListener(kind, (event) => {
    // With object-fit the picture may be smaller than its element.
    const box = place.getBoundingClientRect();
    const scale = Math.min(box.width / place.width, box.height / place.height);
    const width = place.width * scale, height = place.height * scale;
    pointer = [
      (event.clientX - box.left - (box.width - width) / 2) / width,
      (event.clientY - box.top - (box.height - height) / 2) / height,
    ];
    showUnder();
  });
}
place.addEventListener("pointerleave", () => {
  pointer = null;
  showUnder();
});

function showUnder() {
  const index = pointer ? picture.classAt(...pointer) : undefined;
  const chip = $("under");
  chip.hidden = index === undefined;
  if (index === undefined) return;
  chip.firstElementChild.style.background = `rgb(${info.palette[index].join(" ")})`;
  chip.lastElementChild.textContent = info.classes[index];
}

if (document.fullscreenEnabled) {
  $("full").hidden = false;
  $("full").addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else $("screen").requestFullscreen().catch(() => {});
  });
}

// Numbers and storage

function number(ms) {
  return ms === null ? "–" : ms < 100 ? ms.toFixed(1) : grouped(Math.round(ms));
}

function whole(ms) {
  return ms === null ? "–" : ms < 10 ? ms.toFixed(1) : grouped(Math.round(ms));
}

function grouped(count) {
  return count.toLocaleString("en").replaceAll(",", "\u202f");
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {}; // storage may be forbidden, or hold what an older page left
  }
}

function store() {
  try {
    localStorage.setItem(STORE, JSON.stringify(settings));
  } catch {
    // forbidden or full: the page works all the same
  }
}

look();
stream.restart();
