// Shows the progress of the current run, and reloads the page when it has ended. The page works without it.
"use strict";
(() => {
  const bar = document.getElementById("live");
  if (!bar || !window.EventSource) return;
  const at = (id) => document.getElementById(id);
  let running = null;
  const show = (status) => {
    const now = status.queue.find((queued) => queued.running) || null;
    const ended = running && (!now || now.run !== running.run);
    if (now && (!running || running.run !== now.run)) at("live-message").textContent = `A run of ${now.connection} started.`;
    if (ended) at("live-message").textContent = `The run of ${running.connection} has ended.`;
    // A run that the page shows as queued may have ended before the first event.
    const shown = [...document.querySelectorAll("[data-waits]")].map((element) => element.dataset.waits);
    const gone = shown.some((run) => !status.queue.some((queued) => queued.run === run));
    // A reload would lose what the user is typing or has typed.
    const typing = document.activeElement && ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement.tagName);
    const changed = [...document.querySelectorAll("main input, main textarea")].some((field) => field.value !== field.defaultValue);
    if ((ended || gone) && !typing && !changed) return window.location.reload();
    running = now;
    bar.hidden = !now;
    if (!now) return;
    at("live-what").textContent = now.connection;
    at("live-file").textContent = status.live.file;
    at("live-progress").value = status.live.of ? Math.round((1000 * status.live.done) / status.live.of) : 0;
    at("live-rows").textContent = `${status.live.rows.toLocaleString("en")} ${status.live.rows === 1 ? "row" : "rows"}`;
  };
  const events = new EventSource("/api/v1/events");
  events.addEventListener("status", (event) => show(JSON.parse(event.data)));
})();
