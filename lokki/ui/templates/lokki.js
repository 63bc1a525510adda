"use strict"
// Fetches the page again while it has a time to wait, and puts in the parts that have changed. Without this script a
// page is the same, and is made current by loading it again.

const parts = new Map([...document.querySelectorAll("main > [id]")].map(part => [part.id, part.outerHTML]))
let tag = ""
let failures = 0
let timer = 0

const wait = () => Number(document.body.dataset.poll)

function say(text) {
  const line = document.getElementById("live")
  if (line.textContent !== text) line.textContent = text
}

// What the reader did to a part: which details are open, how far it was scrolled, where the focus is.
function stateOf(part) {
  const focus = part.contains(document.activeElement) ? [...part.querySelectorAll("*")].indexOf(document.activeElement) : -1
  const link = focus >= 0 ? document.activeElement.getAttribute("href") : null
  return {
    focus, link,
    details: new Map([...part.querySelectorAll("details")].map(element => [nameOf(element), element.open])),
    scrolls: [...part.querySelectorAll(".scroll, .log")].map(element => [element.scrollLeft, element.scrollTop]),
  }
}

function nameOf(details) {
  return [...details.querySelectorAll("summary strong, summary code")].map(element => element.textContent).join("\n")
}

function restore(part, state) {
  for (const element of part.querySelectorAll("details")) {
    if (state.details.has(nameOf(element))) element.open = state.details.get(nameOf(element))
  }
  part.querySelectorAll(".scroll, .log").forEach((element, place) => {
    if (place < state.scrolls.length) [element.scrollLeft, element.scrollTop] = state.scrolls[place]
  })
  if (state.focus < 0) return
  const links = state.link ? [...part.querySelectorAll("a")].filter(element => element.getAttribute("href") === state.link) : []
  const target = links[0] ?? part.querySelectorAll("*")[state.focus]
  target?.focus({ preventScroll: true })
}

const isAtEnd = element => element.scrollHeight - element.scrollTop - element.clientHeight < 8

function follow(root) {
  for (const element of root.querySelectorAll("[data-follow]")) element.scrollTop = element.scrollHeight
}

function put(old, part) {
  const logs = [...old.querySelectorAll("[data-follow]")]
  const isRead = logs.some(element => !isAtEnd(element))
  if (isRead) return false // the reader is further up: lines must not move away
  const state = stateOf(old)
  old.replaceWith(part)
  restore(part, state)
  follow(part)
  return true
}

function update(text) {
  const page = new DOMParser().parseFromString(text, "text/html")
  const main = document.getElementById("main")
  const next = [...page.querySelectorAll("main > [id]")]
  const names = new Set(next.map(part => part.id))
  for (const part of [...main.querySelectorAll(":scope > [id]")]) {
    if (!names.has(part.id)) { part.remove(); parts.delete(part.id) }
  }
  let previous = null
  for (const part of next) {
    const html = part.outerHTML
    const old = main.querySelector(`:scope > [id="${part.id}"]`)
    if (!old) {
      if (previous) previous.after(part); else main.prepend(part)
      parts.set(part.id, html)
    } else if (part.localName !== "form" && parts.get(part.id) !== html && put(old, part)) {
      parts.set(part.id, html)
    }
    previous = document.getElementById(part.id)
  }
  if (document.title !== page.title) { document.title = page.title; say(page.title) }
  document.body.dataset.poll = page.body.dataset.poll
}

async function look() {
  clearTimeout(timer)
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {} })
      if (answer.ok) {
        tag = answer.headers.get("ETag") ?? ""
        update(await answer.text())
      }
      if (failures) say("")
      failures = 0
    } catch {
      failures += 1
      say("lokki ui has ended: this page is as it was then")
    }
  }
  clearTimeout(timer)
  if (wait()) timer = setTimeout(look, wait() * Math.min(1 + failures, 30))
}

follow(document)
if (wait()) timer = setTimeout(look, wait())
document.addEventListener("visibilitychange", () => { if (!document.hidden && wait()) look() })
