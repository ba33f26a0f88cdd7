// Pictures of the steps: the one that is shown first, then those around it.
import { html, useEffect, useRef, useState } from "./vendor.js";
import { askPicture } from "./api.js";

const AROUND = 8;
const KEPT = 96;

class Album {
  constructor(id, kind, onPicture) {
    this.id = id;
    this.kind = kind;
    this.onPicture = onPicture;
    this.pictures = new Map(); // step -> { image, step } or null
    this.asked = new Map(); // step -> AbortController
  }

  show(step, last) {
    for (const [one, control] of this.asked) {
      if (Math.abs(one - step) > AROUND) {
        control.abort();
        this.asked.delete(one);
      }
    }
    if (this.pictures.has(step)) this.onPicture(step, this.pictures.get(step));
    clearTimeout(this.timer);
    this.fetch(step).then(() => {
      this.timer = setTimeout(() => {
        for (let away = 1; away <= AROUND; away += 1) {
          if (step + away <= last) this.fetch(step + away);
          if (step - away >= 0) this.fetch(step - away);
        }
      }, 60);
    });
  }

  async fetch(step) {
    if (this.pictures.has(step) || this.asked.has(step)) return;
    const control = new AbortController();
    this.asked.set(step, control);
    try {
      const found = await askPicture({ id: this.id, kind: this.kind, step }, control.signal);
      this.pictures.set(step, found);
      if (this.pictures.size > KEPT) {
        const oldest = this.pictures.keys().next().value;
        this.pictures.get(oldest)?.image.close();
        this.pictures.delete(oldest);
      }
      this.onPicture(step, found);
    } catch (error) {
      if (error.name !== "AbortError") this.onPicture(step, null, error);
    } finally {
      if (this.asked.get(step) === control) this.asked.delete(step);
    }
  }

  close() {
    clearTimeout(this.timer);
    for (const control of this.asked.values()) control.abort();
    for (const one of this.pictures.values()) if (one) one.image.close();
  }
}

export function Picture({ id, kind, label, cursor, note }) {
  const canvas = useRef(null);
  const caption = useRef(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    let wanted = cursor.step;
    caption.current.textContent = "loading…"; // drawn anew, the page leaves this text alone
    function draw(step, found, error) {
      if (step !== wanted) return;
      setProblem(error ? error.message : null);
      if (!found || !canvas.current) {
        if (caption.current && !error) caption.current.textContent = "no frame up to here";
        return;
      }
      const { width, height } = found.image;
      if (canvas.current.width !== width || canvas.current.height !== height) {
        canvas.current.width = width;
        canvas.current.height = height;
        canvas.current.classList.toggle("pixels", width < 200);
      }
      canvas.current.getContext("2d").drawImage(found.image, 0, 0);
      canvas.current.dataset.step = step;
      caption.current.textContent = note(found.step, step);
    }
    const album = new Album(id, kind, draw);
    const end = cursor.follow((step) => {
      wanted = step;
      album.show(step, cursor.last);
    });
    return () => {
      end();
      album.close();
    };
  }, [id, kind]);
  return html`<figure class="picture">
    <canvas ref=${canvas} width="300" height="200" role="img" aria-label=${label} class=${problem ? "hidden" : ""}></canvas>
    ${problem ? html`<p class="problem" role="alert">${problem}</p>` : null}
    <figcaption ref=${caption} class=${problem ? "hidden" : ""}></figcaption>
  </figure>`;
}
