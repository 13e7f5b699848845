// The answers page: shows answers as they come, all through one stream, and which one is shown on a narrow screen.
"use strict";

function isBeingCorrected(answer) {
  const correction = answer.querySelector("textarea");
  return correction !== null && correction.value !== correction.defaultValue;
}

async function showComplete(turn, column) {
  const old = turn.querySelector(`.column-${column}`);
  const url = old?.dataset.url;
  if (!url || isBeingCorrected(old)) return;
  const response = await fetch(url, { headers: { "hx-request": "true" } });
  if (!response.ok || isBeingCorrected(old)) return;
  const part = document.createElement("template");
  part.innerHTML = await response.text();
  const complete = part.content.firstElementChild;
  complete.dataset.url = url;
  old.replaceWith(complete);
  htmx.process(complete);
}

for (const turn of document.querySelectorAll("[data-stream]")) {
  const source = new EventSource(turn.dataset.stream);
  source.addEventListener("piece", (event) => {
    const { column, text } = JSON.parse(event.data);
    const answer = turn.querySelector(`.column-${column}[data-pending]`);
    if (!answer) return;
    const body = answer.querySelector(".answer-text");
    if (!answer.dataset.started) {
      // the page may have been made when a part had come already: the stream begins with the whole
      answer.dataset.started = "true";
      body.textContent = "";
    }
    body.append(text);
  });
  source.addEventListener("answer", (event) => showComplete(turn, JSON.parse(event.data).column));
  source.addEventListener("done", async () => {
    source.close();
    document.getElementById("stop")?.remove();
    const columns = turn.querySelectorAll(".answer").length;
    if (columns > 1) for (let column = 1; column < columns; column += 1) await showComplete(turn, column);
  });
  source.addEventListener("error", () => {
    for (const body of turn.querySelectorAll("[data-pending] .answer-text")) body.textContent = "";
    for (const answer of turn.querySelectorAll("[data-pending]")) delete answer.dataset.started;
  });
}

const turns = document.getElementById("turns");
for (const choice of document.querySelectorAll(".switch input")) {
  choice.addEventListener("change", () => { turns.dataset.shown = choice.value; });
}

const message = document.getElementById("message");
message?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    message.form.requestSubmit();
  }
});
document.getElementById("pickers")?.addEventListener("change", (event) => event.currentTarget.requestSubmit());
