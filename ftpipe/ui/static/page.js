// Behaviour of all pages: copy buttons, what a failed request says, and keys.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    const text = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(text || button);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = label; }, 2000);
});

function showProblem(text) {
  const problem = document.getElementById("problem");
  if (!problem) return;
  problem.textContent = text;
  problem.hidden = !text;
}
document.addEventListener("htmx:response:error", (event) => {
  const status = event.detail?.ctx?.response?.status;
  showProblem(status === 401 ? "You are not signed in any more. Load the page again." : "The page could not be brought up to date. Load it again.");
});
document.addEventListener("htmx:error", () => showProblem("The server does not answer. If it was stopped, start `ftpipe ui` again."));
document.addEventListener("htmx:sse:error", () => showProblem("The server does not answer. If it was stopped, start `ftpipe ui` again."));
document.addEventListener("htmx:sse:after:connection", () => showProblem(""));

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.querySelector("input[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});
