// The picture: decodes a frame, keeps its class indices, and draws what this viewer wants to see.

const EXACT = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    // Read back for every frame: kept in memory, not on a GPU.
    this.reader = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    this.colours = document.createElement("canvas").getContext("2d");
    this.mode = "overlay";
    this.opacity = 0.5;
    this.frame = null;
    this.setClasses([], new Set());
  }

  // palette: [[r, g, b]]; off: the set of class numbers that are not coloured.
  setClasses(palette, off) {
    this.palette = palette;
    this.table = new Uint32Array(65536).fill(packed(0, 0, 0)); // no class: black, as recordings
    palette.forEach(([r, g, b], index) => {
      this.table[index] = off.has(index) ? 0 : packed(r, g, b);
    });
    this.draw();
  }

  // Nothing is known of what is to be seen.
  clear() {
    this.frame?.image.close();
    this.frame = null;
    this.context.globalAlpha = 1;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // Decodes a frame and shows it, if it is still wanted by then; whether it was.
  // header: as the server sends it.
  async show(header, jpeg, png, wanted) {
    const [image, grey] = await Promise.all([
      createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })),
      createImageBitmap(new Blob([png], { type: "image/png" }), EXACT),
    ]);
    if (!wanted()) {
      image.close();
      grey.close();
      return false;
    }
    this.frame?.image.close();
    this.frame = { header, image, indices: this.indices(header, grey) };
    grey.close();
    this.draw();
    return true;
  }

  indices({ width, height, bits }, grey) {
    const { canvas } = this.reader;
    if (canvas.width !== grey.width || canvas.height !== grey.height) {
      canvas.width = grey.width;
      canvas.height = grey.height;
    }
    this.reader.globalCompositeOperation = "copy";
    this.reader.drawImage(grey, 0, 0);
    const pixels = new Uint32Array(
      this.reader.getImageData(0, 0, grey.width, grey.height).data.buffer);
    if (bits === 8) {
      return new Uint8Array(pixels); // conversion keeps the lowest byte: red
    }
    // Low bytes in the left half, high bytes in the right one.
    const indices = new Uint16Array(width * height);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0, at = y * 2 * width; x < width; x++, at++, i++) {
        indices[i] = (pixels[at] & 255) | ((pixels[at + width] & 255) << 8);
      }
    }
    return indices;
  }

  draw() {
    if (!this.frame) return;
    const { header: { width, height }, image } = this.frame;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const { context } = this;
    context.globalAlpha = 1;
    if (this.mode === "mask") {
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, height);
    } else {
      context.drawImage(image, 0, 0, width, height);
    }
    if (this.mode === "original") return;
    context.globalAlpha = this.mode === "mask" ? 1 : this.opacity;
    context.drawImage(this.coloured(width, height), 0, 0);
    context.globalAlpha = 1;
  }

  coloured(width, height) {
    const { canvas } = this.colours;
    if (canvas.width !== width || canvas.height !== height || !this.data) {
      canvas.width = width;
      canvas.height = height;
      this.data = this.colours.createImageData(width, height);
      this.words = new Uint32Array(this.data.data.buffer);
    }
    const { words, table, frame: { indices } } = this;
    for (let i = 0; i < words.length; i++) words[i] = table[indices[i]];
    this.colours.putImageData(this.data, 0, 0);
    return canvas;
  }

  // The class at a place of the canvas, both 0..1; undefined where there is none.
  classAt(across, down) {
    if (!this.frame) return undefined;
    const { header: { width, height }, indices } = this.frame;
    const x = Math.floor(across * width), y = Math.floor(down * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return undefined;
    const index = indices[y * width + x];
    return index < this.palette.length ? index : undefined;
  }

  // A PNG of exactly what is on the canvas.
  png() {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }
}

// One opaque pixel as canvases lay it in memory; every machine that runs browsers is little-endian.
function packed(r, g, b) {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
