/** The box at the bottom: text, and images by button, paste or drop. */

import { make } from "./view.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST = 8;
const LARGEST = 16 << 20;

/** Make the box work. `send({text, images})` returns whether it was taken; `changed()` after each change of the text. */
export function composer({ send, changed, complain }) {
  const [form, text, list, file] = ["composer", "text", "images", "file"].map((id) => document.getElementById(id));
  let images = [];

  function add(files) {
    for (const blob of files) {
      if (!KINDS.includes(blob.type)) complain(`${blob.name || "This"} is not a PNG, JPEG, WebP or GIF image.`);
      else if (blob.size > LARGEST) complain(`${blob.name || "The image"} is larger than 16 MB.`);
      else if (images.length === MOST) complain(`A message has ${MOST} images at most.`);
      else images.push({ blob, url: URL.createObjectURL(blob), name: blob.name || "Image" });
    }
    draw();
    text.focus();
  }

  function draw() {
    list.replaceChildren(
      ...images.map((image, index) => {
        const away = make("button", { type: "button", ariaLabel: `Remove ${image.name}`, textContent: "×" });
        away.onclick = () => {
          URL.revokeObjectURL(images.splice(index, 1)[0].url);
          draw();
          text.focus();
        };
        return make("li", {}, make("img", { src: image.url, alt: image.name }), away);
      }),
    );
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
  }

  async function submit() {
    const said = { text: text.value.trim(), images };
    if (!said.text && !images.length) return;
    [text.value, images] = ["", []];
    draw();
    if (await send(said)) return;
    text.value = text.value ? `${said.text}\n${text.value}` : said.text; // nobody took it: it is not lost
    images = [...said.images, ...images];
    draw();
  }

  form.onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  text.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  text.oninput = () => {
    draw();
    changed();
  };
  text.onpaste = (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    add(event.clipboardData.files);
  };
  file.onchange = () => {
    add([...file.files]);
    file.value = "";
  };
  document.ondragover = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  };
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    add(event.dataTransfer.files);
  };
  return {
    add,
    get draft() {
      return text.value;
    },
    set draft(value) {
      text.value = value;
      draw();
    },
  };
}

/** Return an image as it is posted. */
export async function encoded({ blob }) {
  const reader = new FileReader();
  const read = new Promise((done) => (reader.onload = done));
  reader.readAsDataURL(blob);
  await read;
  return { media_type: blob.type, data: reader.result.slice(reader.result.indexOf(",") + 1) };
}

/** Draw a picture with something to see in it. */
export function samplePicture() {
  const canvas = make("canvas", { width: 336, height: 336 });
  const pen = canvas.getContext("2d");
  const sky = pen.createLinearGradient(0, 0, 0, 336);
  for (const [at, colour] of [[0, "#2b3a67"], [0.55, "#e8a87c"], [0.56, "#c38d6b"], [1, "#41506b"]]) sky.addColorStop(at, colour);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, 336, 336);
  pen.fillStyle = "#f6d7a7";
  pen.beginPath();
  pen.arc(226, 120, 34, 0, 7);
  pen.fill();
  pen.fillStyle = "#1f2a44";
  pen.fill(new Path2D("M70 216h110l-18 30H92zM120 120v90h50z"));
  return new Promise((done) => canvas.toBlob((blob) => done(new File([blob], "boat.png", { type: "image/png" }))));
}
