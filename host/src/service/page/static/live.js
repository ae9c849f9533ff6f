// Shows the progress of current runs, and reloads the page when one has ended. The page works without it.
"use strict";
(() => {
  const bar = document.getElementById("live");
  if (!bar || !window.EventSource) return;
  const message = document.getElementById("live-message");
  const list = document.getElementById("live-runs");
  const template = document.getElementById("live-run");
  // The current runs with their elements, by their ids.
  const shown = new Map();
  const add = (queued) => {
    const item = template.content.firstElementChild.cloneNode(true);
    item.querySelector(".live-what").textContent = queued.connection;
    list.append(item);
    shown.set(queued.run, { connection: queued.connection, item });
    message.textContent = `A run of ${queued.connection} started.`;
  };
  const advance = (item, live) => {
    item.querySelector(".live-file").textContent = live.file;
    item.querySelector(".live-progress").value = live.of ? Math.round((1000 * live.done) / live.of) : 0;
    item.querySelector(".live-rows").textContent = `${live.rows.toLocaleString("en")} ${live.rows === 1 ? "row" : "rows"}`;
  };
  const show = (status) => {
    const current = status.queue.filter((queued) => queued.running);
    const ended = [...shown].filter(([run]) => !current.some((queued) => queued.run === run));
    for (const [run, { connection, item }] of ended) {
      message.textContent = `The run of ${connection} has ended.`;
      item.remove();
      shown.delete(run);
    }
    // A run that the page shows as queued may have ended before the first event.
    const waits = [...document.querySelectorAll("[data-waits]")].map((element) => element.dataset.waits);
    const gone = waits.some((run) => !status.queue.some((queued) => queued.run === run));
    // A reload would lose what the user is typing or has typed.
    const typing = document.activeElement && ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement.tagName);
    const changed = [...document.querySelectorAll("main input, main textarea")].some((field) => field.value !== field.defaultValue);
    if ((ended.length || gone) && !typing && !changed) return window.location.reload();
    for (const queued of current) {
      if (!shown.has(queued.run)) add(queued);
      if (queued.live) advance(shown.get(queued.run).item, queued.live);
    }
    bar.hidden = !current.length;
  };
  const events = new EventSource("/api/v1/events");
  events.addEventListener("status", (event) => show(JSON.parse(event.data)));
})();
