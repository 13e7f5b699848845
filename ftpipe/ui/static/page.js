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
function problemOf(status) {
  if (!status) return "The server does not answer. If it was stopped, start `ftpipe ui` again.";
  if (status === 401) return "You are signed out, probably because `ftpipe ui` was started again. Open the address that it has printed; after that, load this page again.";
  return "The page could not be brought up to date. Load it again.";
}
document.addEventListener("htmx:response:error", (event) => showProblem(problemOf(event.detail?.ctx?.response?.status)));
document.addEventListener("htmx:error", () => showProblem(problemOf()));
document.addEventListener("htmx:sse:error", (event) => showProblem(problemOf(event.detail?.status)));
document.addEventListener("htmx:sse:after:connection", () => showProblem(""));
document.addEventListener("busy", () => showProblem("Too many pages are open. Close some; this one is brought up to date again in half a minute."));

// A form that changes something is sent when the server has answered: if it was stopped or started again, the page stays
// and says so, and what was typed is not lost. Not form.method: that may be a field of this name.
let answered = null, isAsking = false;
document.addEventListener("submit", async (event) => {
  const form = event.target, button = event.submitter;
  const method = button?.getAttribute("formmethod") || form.getAttribute("method");
  const home = document.querySelector(".brand");
  if (method?.toLowerCase() !== "post" || event.defaultPrevented || !home) return;
  if (answered === form) {
    answered = null;
    return;
  }
  event.preventDefault();
  if (isAsking) return;
  isAsking = true;
  const before = button?.outerHTML;
  try {
    const response = await fetch(home.href, { redirect: "manual" });  // signed in, it leads to the first page
    if (response.type !== "opaqueredirect") {
      showProblem(problemOf(response.status));
    } else if (!form.isConnected || button?.outerHTML !== before) {
      showProblem("The page has changed meanwhile, and nothing was sent. Look at it, and press the button again.");
    } else {
      answered = form;
      form.requestSubmit(button);
      answered = null;  // a field may be wrong, and the form not sent
    }
  } catch {
    showProblem(problemOf());
  } finally {
    isAsking = false;
  }
});

// Tokens: a click, or the arrow keys from one to the next, write below what the title of a token says.
function showToken(group, token) {
  group.querySelector(".at")?.classList.remove("at");
  token.classList.add("at");
  token.scrollIntoView({ block: "nearest" });
  document.getElementById(group.dataset.note).textContent = `“${token.textContent}”: ${token.title}`;
}
document.addEventListener("click", (event) => {
  const token = event.target.closest("[data-note] [title]");
  if (token) showToken(token.closest("[data-note]"), token);
});
document.addEventListener("keydown", (event) => {
  const group = event.target.closest("[data-note]");
  if (!group || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;  // Alt and an arrow key go back in the history
  const tokens = [...group.querySelectorAll("[title]")];
  const now = tokens.findIndex((token) => token.classList.contains("at"));
  const last = tokens.length - 1;
  event.preventDefault();
  showToken(group, tokens[{ ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key]]);
});

// A field that was changed before this script had come, or that the browser has filled in again, is asked for now.
addEventListener("load", () => {
  for (const form of document.querySelectorAll("form[hx-get][role=search]")) {
    const isChanged = (field) => field.matches("select")
      ? [...field.options].some((option) => option.selected !== option.defaultSelected && option.defaultSelected)
      : field.value !== field.defaultValue;
    if ([...form.querySelectorAll("input, select")].some(isChanged)) form.dispatchEvent(new Event("change", { bubbles: true }));
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.querySelector("input[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});
