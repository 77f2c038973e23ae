(() => {
  const tip = document.getElementById("tip");
  document.querySelectorAll(".lens").forEach((lens, which) => {
    const data = JSON.parse(lens.querySelector(".lens-data").textContent);
    const rows = [...lens.querySelectorAll("tbody tr")].map((row) => [...row.cells].slice(1));
    const place = new Map();
    const readout = lens.querySelector(".lens-cell");
    const region = lens.querySelector(".grid");
    let current = null;

    const show = (cell, event) => {
      tip.textContent = cell.dataset.tip;
      tip.hidden = false;
      const gap = 14;
      const { width, height } = tip.getBoundingClientRect();
      const left = event.clientX + gap + width > innerWidth ? event.clientX - gap - width : event.clientX + gap;
      const top = event.clientY + gap + height > innerHeight ? event.clientY - gap - height : event.clientY + gap;
      tip.style.left = `${Math.max(0, left)}px`;
      tip.style.top = `${Math.max(0, top)}px`;
    };
    const choose = (cell) => {
      if (current) { current.classList.remove("current"); current.tabIndex = -1; }
      current = cell;
      cell.classList.add("current");
      cell.tabIndex = 0;
      readout.textContent = cell.dataset.tip;
      readout.hidden = false;
    };
    const cellOf = (event) => (event.target instanceof Element ? event.target.closest("td") : null);

    rows.forEach((cells, row) => cells.forEach((cell, column) => {
      cell.dataset.tip = cell.title;
      cell.removeAttribute("title");  /* the page's own tip takes its place */
      cell.tabIndex = -1;
      place.set(cell, [row, column]);
    }));
    region.addEventListener("pointermove", (event) => {
      const cell = cellOf(event);
      if (cell) show(cell, event); else tip.hidden = true;
    });
    region.addEventListener("pointerleave", () => { tip.hidden = true; });
    region.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (cell) { choose(cell); cell.focus(); }
    });
    region.addEventListener("focusin", (event) => {
      const cell = cellOf(event);
      if (cell) choose(cell);
    });
    region.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const cell = cellOf(event);
      if (!step || !cell) return;
      const [row, column] = place.get(cell);
      const next = rows[row + step[0]]?.[column + step[1]];
      event.preventDefault();
      if (next) next.focus();
    });

    const paint = (mode) => {
      rows.forEach((cells, row) => cells.forEach((cell, column) => {
        cell.className = `s${mode.steps[row][column]}` + (cell === current ? " current" : "");
        cell.textContent = mode.texts[row][column];
      }));
      lens.querySelector(".least").textContent = mode.ends[0];
      lens.querySelector(".most").textContent = mode.ends[1];
    };
    const controls = lens.querySelector(".controls");
    controls.hidden = false;
    lens.querySelector(".keys").hidden = false;
    for (const input of controls.querySelectorAll("input")) input.name = `lens-mode-${which}`;
    rows.at(-1).at(-1).tabIndex = 0;
    controls.addEventListener("change", (event) => paint(data.modes[Number(event.target.value)]));
    controls.querySelector(".download").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(data.lens)], { type: "application/json" }));
      link.download = "lens.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  });
})();
