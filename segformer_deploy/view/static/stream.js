// The connection: reads messages as fast as they come, reconnects by itself, says what is wrong.

const SILENCE_MS = 6000; // the server says something twice a second
const LONGEST_MS = 8000;
const HIDDEN_MS = 3000;
const LARGEST = 1 << 26;

export class Stream {
  // on: {info(info), message(header, jpeg, png), connected(), lost(sentence)}
  constructor(on) {
    this.on = on;
    this.source = 0;
    this.turn = 0;
    this.delay = 500;
    document.addEventListener("visibilitychange", () => this.visibility());
    // A page that is not seen waits until it is.
    addEventListener("online", () => { if (!this.paused) this.restart(); });
  }

  restart() {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.delay = 500;
    this.run(++this.turn);
  }

  // A page that nobody sees should not make the board encode.
  visibility() {
    clearTimeout(this.hiding);
    if (!document.hidden) {
      if (this.paused) this.restart();
      this.paused = false;
    } else {
      this.hiding = setTimeout(() => {
        this.paused = true;
        this.turn++;
        clearTimeout(this.timer);
        this.abort?.abort();
      }, HIDDEN_MS);
    }
  }

  async run(turn) {
    const abort = this.abort = new AbortController();
    let sentence = "";
    this.watch(abort);
    try {
      const info = await this.fetch("info", abort);
      const body = await info.json();
      if (turn !== this.turn) return;
      this.on.info(body);
      const answer = await this.fetch(`stream?source=${this.source}`, abort);
      if (turn !== this.turn) return;
      this.on.connected();
      await this.read(answer.body.getReader(), abort, turn);
    } catch (error) {
      sentence = error instanceof Refused ? error.message : "";
    } finally {
      clearTimeout(abort.silence);
      abort.abort();
    }
    if (turn !== this.turn) return;
    this.on.lost(sentence, this.delay);
    this.timer = setTimeout(() => this.run(turn), this.delay);
    this.delay = Math.min(LONGEST_MS, this.delay * 2);
  }

  async fetch(address, abort) {
    const answer = await fetch(address, { signal: abort.signal, cache: "no-store" });
    if (!answer.ok) throw new Refused((await answer.text()).trim());
    this.watch(abort);
    return answer;
  }

  watch(abort) {
    clearTimeout(abort.silence);
    abort.silence = setTimeout(() => abort.abort(), SILENCE_MS);
  }

  async read(reader, abort, turn) {
    const bytes = new Bytes();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || turn !== this.turn) return;
      this.watch(abort);
      bytes.add(value);
      let message;
      while ((message = bytes.message())) {
        this.delay = 500;
        this.on.message(...message);
      }
    }
  }
}

class Refused extends Error {}

// What has come but makes no whole message yet.
class Bytes {
  constructor() {
    this.buffer = new Uint8Array(1 << 18);
    this.start = this.end = 0;
  }

  add(piece) {
    const held = this.end - this.start;
    if (this.end + piece.length > this.buffer.length) {
      const wanted = held + piece.length;
      const to = wanted > this.buffer.length ? new Uint8Array(2 * wanted) : this.buffer;
      to.set(this.buffer.subarray(this.start, this.end));
      this.buffer = to;
      this.start = 0;
      this.end = held;
    }
    this.buffer.set(piece, this.end);
    this.end += piece.length;
  }

  // [header, jpeg, png] of the next whole message; null where there is none.
  message() {
    const { buffer, start, end } = this;
    if (end - start < 4) return null;
    const view = new DataView(buffer.buffer, start);
    const length = view.getUint32(0);
    if (length > LARGEST) throw new Error("no message");
    if (end - start < 4 + length) return null;
    const at = start + 4 + length;
    this.header = JSON.parse(new TextDecoder().decode(buffer.subarray(start + 4, at)));
    const { jpeg, png } = this.header;
    if (end - at < jpeg + png) return null;
    this.start = at + jpeg + png;
    // Copies: the buffer is used again before they are decoded.
    return [this.header, buffer.slice(at, at + jpeg), buffer.slice(at + jpeg, this.start)];
  }
}
