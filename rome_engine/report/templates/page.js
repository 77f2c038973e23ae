"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;

  const known = (value) => typeof value === "number" && Number.isFinite(value);
  const less = (value, base) => (known(value) && known(base) ? value - base : null);
  const number = (value, signed = false) => {
    if (!known(value)) return "–";
    const size = Math.abs(value);
    const text = size > 0 && size < 0.0005 ? size.toExponential(1) : size.toFixed(size < 100 ? 3 : size < 1000 ? 1 : 0);
    return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
  };
  const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
  const element = (name, text, style = "") => {
    const made = document.createElement(name);
    made.className = style;
    made.textContent = text;
    return made;
  };
  /* The namespace comes from the page's own svg elements: no address stands in this file. */
  const drawn = (svg, name, attributes) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    svg.append(made);
    return made;
  };
  const line = (values, point) => {
    let pen = "M";
    return values.map((value, index) => {
      if (!known(value)) { pen = "M"; return ""; }
      const step = pen + point(value, index);
      pen = "L";
      return step;
    }).join("");
  };

  const download = (name, content) => {
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  class HeatMap {
    constructor(figure, view, settings) {
      Object.assign(this, { figure, view, settings, at: view.start, pin: null });
      this.scores = view.scores;
      this.tokens = this.scores.length;
      this.layers = this.scores[0].length;
      for (const part of ["labels", "cells", "column", "axis", "profile", "readout", "scale", "cursor", "pinned"]) {
        this[part] = figure.querySelector("." + part);
      }
      this.range = figure.querySelector(".profile-range");
      this.build();
      this.listen();
    }

    build() {
      this.view.rows.forEach((label, index) => {
        const name = element("span", label, this.view.bold[index] ? "subject" : "");
        name.title = label;
        this.labels.append(name);
      });
      const svg = this.cells.querySelector("svg");
      svg.setAttribute("viewBox", `0 0 ${this.layers} ${this.tokens}`);
      this.rects = this.scores.map((row, y) => row.map((_, x) => drawn(svg, "rect", { x, y, width: 1, height: 1 })));
      /* A line without length and with round ends is a dot whatever the cells' shape. */
      this.view.exact?.forEach((row, y) => row.forEach((exact, x) => {
        if (!known(exact)) return;
        for (const part of ["ring", "dot"]) drawn(svg, "path", { class: part, d: `M${x + 0.5} ${y + 0.5}h0` });
      }));
      this.cells.classList.toggle("gaps", this.view.missing);
      const step = [1, 2, 5, 10, 20, 50].find((each) => this.layers / each <= 8) || 100;
      for (let layer = 0; layer < this.layers; layer += step) {
        const tick = element("span", String(layer));
        tick.style.left = `${(100 * (layer + 0.5)) / this.layers}%`;
        this.axis.append(tick);
      }
    }

    listen() {
      const find = (event) => {
        const box = this.cells.getBoundingClientRect();
        return [
          clamp(Math.floor(((event.clientY - box.top) / box.height) * this.tokens), 0, this.tokens - 1),
          clamp(Math.floor(((event.clientX - box.left) / box.width) * this.layers), 0, this.layers - 1),
        ];
      };
      this.cells.addEventListener("pointermove", (event) => { this.move(find(event)); this.tell(event.clientX, event.clientY); });
      this.cells.addEventListener("pointerleave", () => { tip.hidden = true; });
      this.cells.addEventListener("click", (event) => { this.move(find(event)); this.toggle(); });
      this.cells.addEventListener("blur", () => { tip.hidden = true; });
      this.cells.addEventListener("focus", () => { if (this.cells.matches(":focus-visible")) this.tellHere(); });
      this.cells.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      const [token, layer] = this.at;
      const moves = {
        ArrowUp: [token - 1, layer], ArrowDown: [token + 1, layer], ArrowLeft: [token, layer - 1], ArrowRight: [token, layer + 1],
        Home: [token, 0], End: [token, this.layers - 1], PageUp: [0, layer], PageDown: [this.tokens - 1, layer],
      };
      if (event.key in moves) {
        const [y, x] = moves[event.key];
        this.move([clamp(y, 0, this.tokens - 1), clamp(x, 0, this.layers - 1)]);
        this.tellHere();
      } else if (event.key === "Enter" || event.key === " ") {
        this.toggle();
      } else if (event.key === "Escape") {
        this.pin = null;
        tip.hidden = true;
        this.point();
      } else {
        return;
      }
      event.preventDefault();
    }

    move(cell) { this.at = cell; this.point(); }

    toggle() {
      this.pin = this.pin && this.pin.join() === this.at.join() ? null : this.at;
      this.point();
    }

    describe([token, layer]) {
      const score = this.scores[token][layer];
      const parts = this.view.base === null || this.settings.modes === 1
        ? [`${this.view.measure} ${number(score, this.view.diverging)}`]
        : [`${this.view.measure} ${number(score)}`, `indirect effect ${number(this.effect(score), true)}`];
      if (this.view.bands) parts.push(`95 % [${this.view.bands.map((side) => number(side[token][layer], true)).join(", ")}]`);
      if (this.view.exact) {
        const exact = this.view.exact[token][layer];
        parts.push(known(exact) ? `exactly ${number(exact, true)}` : "not verified");
      }
      return [`“${this.view.rows[token]}” · layer ${layer}`, parts.join(" · ")];
    }

    tell(x, y) {
      tip.textContent = this.describe(this.at).join("\n");
      tip.hidden = false;
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${clamp(x + 14, 4, Math.max(4, innerWidth - width - 4))}px`;
      tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
    }

    tellHere() {
      const box = this.cursor.getBoundingClientRect();
      this.tell(box.right, box.bottom - 10);
    }

    /* The scale's ends: of scores, or of effects, the latter as far below zero as above. */
    ends() {
      const like = (view) => view.measure === this.view.measure && view.sign === this.view.sign;
      const views = this.settings.scale === "shared" ? this.settings.views.filter(like) : [this.view];
      if (this.settings.mode === "score") {
        return [Math.min(...views.map((view) => view.bottom)), Math.max(...views.map((view) => view.top))];
      }
      const sizes = views.flatMap((view) => [less(view.top, view.base), less(view.bottom, view.base)]);
      const most = Math.max(...sizes.filter(known).map(Math.abs), 1e-9);
      return [-most, most];
    }

    /* How far a cell moves the patched run. */
    effect(score) { return this.view.sign > 0 ? less(score, this.view.base) : less(this.view.base, score); }

    value(score) { return this.settings.mode === "score" ? score : this.effect(score); }

    shade(value) {
      const ramps = data.ramps[this.view.ramp][dark.matches && !printing ? "dark" : "light"];
      const pick = (ramp, share) => ramp[Math.round(clamp(share, 0, 1) * (ramp.length - 1))];
      const [least, most] = this.ends();
      const { sign, orientation, base, diverging } = this.view;
      if (this.settings.mode === "score" && diverging) {
        const towards = sign * orientation * (value - base);
        const farthest = Math.max(most - base, base - least, 1e-9);
        return pick(towards >= 0 ? ramps.positive : ramps.negative, Math.abs(towards) / farthest);
      }
      if (this.settings.mode === "score") {
        const share = (value - least) / (most - least);
        return pick(ramps.positive, sign * orientation > 0 ? share : 1 - share);
      }
      const towards = orientation * value;
      return towards >= 0 ? pick(ramps.positive, towards / most) : pick(ramps.negative, -towards / most);
    }

    paint() {
      this.rects.forEach((row, token) => row.forEach((rect, layer) => {
        const value = this.value(this.scores[token][layer]);
        rect.setAttribute("fill", known(value) ? this.shade(value) : "none");
      }));
      this.legend();
      this.point();
    }

    legend() {
      const [least, most] = this.ends();
      const bar = element("div", "", "bar");
      const stops = Array.from({ length: 65 }, (_, index) => this.shade(least + ((most - least) * index) / 64));
      bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
      this.scale.replaceChildren(bar);
      const place = (value) => 100 * clamp((value - least) / (most - least), 0, 1);
      const score = this.settings.mode === "score";
      for (const [name, base] of this.view.marks) {
        const value = this.value(base);
        if (!known(value)) continue;
        const beyond = value > most ? " →" : value < least ? " ←" : "";
        const mark = element("span", `${name} ${number(value, !score)}${beyond}`, "mark" + (place(value) > 60 ? " left" : ""));
        mark.style.left = `${place(value)}%`;
        this.scale.append(mark);
      }
      const ends = [number(least, !score), number(most, !score)].map((text) => element("span", text, "end"));
      ends[0].style.left = ends[1].style.right = "0";
      const middle = element("span", score || this.settings.modes === 1 ? this.view.measure : "indirect effect", "end");
      middle.style.left = "50%";
      middle.style.transform = "translateX(-50%)";
      this.scale.append(...ends, middle);
    }

    point() {
      const frame = (mark, cell) => {
        mark.hidden = !cell;
        if (!cell) return;
        mark.style.left = `calc(${(100 * cell[1]) / this.layers}% - 1px)`;
        mark.style.top = `calc(${(100 * cell[0]) / this.tokens}% - 1px)`;
        mark.style.width = `calc(${100 / this.layers}% + 2px)`;
        mark.style.height = `calc(${100 / this.tokens}% + 2px)`;
      };
      frame(this.cursor, this.at);
      frame(this.pinned, this.pin);
      [...this.labels.children].forEach((name, token) => name.classList.toggle("current", token === this.at[0]));
      this.profiles();
      const lines = [this.describe(this.at).join(" · ")];
      if (this.pin) {
        const of = ([token, layer]) => this.scores[token][layer];
        const [token, layer] = this.pin;
        const apart = number(less(of(this.at), of(this.pin)), true);
        lines.push(`Pinned “${this.view.rows[token]}” · layer ${layer} · ${number(of(this.pin))} · difference ${apart}`);
      }
      this.readout.replaceChildren(...lines.map((text) => element("div", text)));
    }

    profiles() {
      const [least, most] = this.ends();
      const share = (value) => clamp((this.value(value) - least) / (most - least), 0, 1);
      const [token, layer] = this.at;
      const row = this.profile.querySelector("svg");
      row.replaceChildren();
      row.setAttribute("viewBox", `0 0 ${this.layers} 1`);
      drawn(row, "path", { class: "here", d: `M${layer + 0.5} 0V1` });
      const levels = this.view.marks.length ? this.view.marks.map(([, base]) => base) : [this.view.base];
      for (const base of levels) {
        const value = this.value(base);
        if (known(value) && value <= most && value >= least) drawn(row, "path", { class: "base", d: `M0 ${1 - share(base)}H${this.layers}` });
      }
      const along = (scores) => line(scores, (value, x) => `${x + 0.5} ${1 - share(value)}`);
      if (this.pin) drawn(row, "path", { class: "pin", d: along(this.scores[this.pin[0]]) });
      drawn(row, "path", { d: along(this.scores[token]) });

      const side = this.column.querySelector("svg");
      side.replaceChildren();
      side.setAttribute("viewBox", `0 0 1 ${this.tokens}`);
      drawn(side, "path", { class: "here", d: `M0 ${token + 0.5}H1` });
      const down = (x) => line(this.scores.map((scores) => scores[x]), (value, y) => `${share(value)} ${y + 0.5}`);
      if (this.pin) drawn(side, "path", { class: "pin", d: down(this.pin[1]) });
      drawn(side, "path", { d: down(layer) });
      const signed = this.settings.mode === "effect";
      this.range.replaceChildren(element("span", number(most, signed)), element("span", number(least, signed)));
    }
  }

  const all = [];
  const begin = (group) => {
    const { views, mode, modes } = data.groups[Number(group.dataset.group)];
    const settings = { mode, modes, scale: "own", views };
    const figures = [...group.querySelectorAll("figure")];
    const maps = figures.map((figure, index) => new HeatMap(figure, views[index], settings));
    const controls = group.querySelector(".controls");
    controls.hidden = false;
    controls.addEventListener("change", (event) => {
      const [setting] = event.target.name.split("-");
      if (setting === "only") {
        const only = event.target.value;
        figures.forEach((figure, index) => { figure.hidden = only !== "all" && only !== String(index); });
        group.querySelector(".figures").classList.toggle("single", only !== "all");
      } else {
        settings[setting] = event.target.value;
        maps.forEach((map) => map.paint());
      }
    });
    maps.forEach((map) => map.paint());
    all.push(...maps);
  };
  /* The maps of a metric are made when it is first shown. */
  const metrics = [...document.querySelectorAll("main > .metric")];
  const begun = new Set();
  const show = (chosen) => {
    metrics.forEach((metric, index) => { metric.hidden = index !== chosen; });
    if (!begun.has(chosen)) metrics[chosen].querySelectorAll(".maps").forEach(begin);
    begun.add(chosen);
  };
  const controls = document.querySelector(".page-controls");
  if (controls) {
    controls.hidden = false;
    controls.addEventListener("change", (event) => show(Number(event.target.value)));
    controls.querySelector(".download")?.addEventListener("click", () => download(data.download.name, data.download.record));
  }
  show(0);
  const repaint = () => all.forEach((map) => map.paint());
  dark.addEventListener("change", repaint);
  addEventListener("beforeprint", () => { printing = true; repaint(); });
  addEventListener("afterprint", () => { printing = false; repaint(); });
})();
