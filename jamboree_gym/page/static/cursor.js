// The one step that all parts of an episode show. A move draws no plot anew: it moves lines.

export class Cursor {
  constructor(step = 0) {
    this.step = step;
    this.last = 0;
    this.listeners = new Set();
    this.isWaiting = false;
    this.isPlaying = false;
  }

  // Go to a step; what follows it is told once for each frame of the screen.
  go(step) {
    const wanted = Math.max(0, Math.min(this.last, Math.round(step)));
    if (wanted === this.step) return;
    this.step = wanted;
    this.tell();
  }

  tell() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      for (const listener of this.listeners) listener(this.step);
    });
  }

  follow(listener) {
    this.listeners.add(listener);
    listener(this.step);
    return () => this.listeners.delete(listener);
  }

  // The newest step of an episode that grows: after it is only an observation, without an action yet.
  get newest() {
    return Math.max(0, this.last - 1);
  }

  get isNewest() {
    return Boolean(this.isFollowing) && this.step >= this.newest;
  }

  setLast(last) {
    const wasNewest = this.isNewest;
    this.last = last;
    if (wasNewest && this.newest > this.step) this.go(this.newest);
    else if (this.step > last) this.go(last);
  }

  play(stepsPerSecond, onEnd) {
    this.stop();
    this.isPlaying = true;
    let before = performance.now();
    let owed = 0;
    const tick = (now) => {
      if (!this.isPlaying) return;
      owed += ((now - before) / 1000) * stepsPerSecond();
      before = now;
      const whole = Math.floor(owed);
      owed -= whole;
      if (whole) this.go(this.step + whole);
      if (this.step >= this.last && !this.isFollowing) {
        this.stop();
        onEnd();
        return;
      }
      this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
  }

  stop() {
    this.isPlaying = false;
    cancelAnimationFrame(this.frame);
  }
}

// The part of the episode that all plots show; null = all of it.
export class Zoom {
  constructor() {
    this.range = null;
    this.listeners = new Set();
  }

  set(range) {
    this.range = range;
    for (const listener of this.listeners) listener();
  }

  follow(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}
