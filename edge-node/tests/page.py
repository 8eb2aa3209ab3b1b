#!/usr/bin/env python3
"""The page of a serving edge node, in a headless Chromium, as a person uses it.

    cargo build --release --workspace
    edge-node/tests/page.py target/release [FOLDER FOR SCREENSHOTS]

Starts `cloud-node` and `edge-node serve` from the folder named, both on loopback with the built-in
model, and types a private prompt with a canary. The answer must be right, the timeline must fill,
the browser must talk to nobody else, and the canary must be in nothing that the cloud was sent or
logged. Needs Python, `chromium` and `chromedriver`, and no package.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from urllib.parse import urlsplit

from webdriver import Browser

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "shared/model/demo"
DESK = REPOSITORY / "edge-node/src/demo/cloud_prompt.txt"
KEY = "a key for tests"
# A name that occurs nowhere else.
CANARY = "Zebracanary"
QUESTION = f"My name is {CANARY}. I have the jade plan. How much does it cost?"
ANSWER = "42 coins"
# A build on a busy machine may take its time; a test that hangs must not.
PATIENCE_S = 60
LAYERS = 4


class Nodes:
    """A cloud node and a serving edge node, and everything that they log."""

    def __init__(self, programs, root):
        self.processes = []
        self.root = root
        (root / "prompts").mkdir()
        (root / "prompts/desk.txt").write_bytes(DESK.read_bytes())
        (root / "prompts/other.txt").write_text("The opal plan costs 12 coins.\n")
        (root / "keys").write_text(KEY)
        cloud, edge = programs / "cloud-node", programs / "edge-node"
        cloud_identity = ["--identity", root / "cloud"]
        edge_identity = ["--identity", root / "edge"]
        printed = subprocess.run(
            [cloud, "init", *cloud_identity], check=True, text=True, capture_output=True
        ).stdout
        joining = [edge, "join", printed.split()[-1], *edge_identity]
        subprocess.run(joining, check=True, stdout=subprocess.DEVNULL)
        options = ["--model", MODEL, "--prompts", root / "prompts", "--listen", "127.0.0.1:0"]
        addr = self.start("cloud", [cloud, "serve", *options, *cloud_identity])
        options = ["--model", MODEL, "--cloud", addr, "--port", "0", "--cloud-prompt", "desk"]
        # So little that gauges show something.
        options += ["--kv-cache-mib", "1", "--cloud-kv-mib", "1"]
        options += ["--api-key-file", root / "keys", "--remembered", root / "remembered"]
        self.url = self.start("edge", [edge, "serve", *options, *edge_identity])

    def start(self, name, command):
        environment = {
            **os.environ,
            "RUST_LOG": "trace",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
        }
        with open(self.root / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.processes.append(process)
        for line in process.stdout:
            if line.startswith("listening on "):
                return line.removeprefix("listening on ").strip()
        raise SystemExit(f"{name} ended before it listened: {self.log(name)[-2000:]}")

    def log(self, name):
        return (self.root / f"{name}.log").read_text()

    def status(self):
        request = urllib.request.Request(f"{self.url}/v1/status")
        request.add_header("authorization", f"Bearer {KEY}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def stop(self):
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE_S)


def bars(browser, kind):
    count = "return document.querySelectorAll(`.chart rect.${arguments[0]}`).length"
    return browser.run(count, kind)


def choose(browser, value):
    """Chooses a cloud prompt, as the list does it."""
    script = """
        const chooser = document.getElementById('prompt');
        chooser.value = arguments[0];
        chooser.dispatchEvent(new Event('change'));
        return chooser.value;
    """
    assert browser.run(script, value) == value


def last_turn(browser):
    script = """
        const turn = [...document.querySelectorAll('.turn')].pop();
        const text = (name) => turn.querySelector(name).textContent;
        return turn ? [turn.className, text('.said'), text('.after')] : ['', '', ''];
    """
    return browser.run(script)


def ask(browser, words):
    """The answer to words that are typed."""
    count = "return document.querySelectorAll('.turn').length"
    before = browser.run(count)
    browser.type("words", words)
    browser.click("send")
    browser.wait("second turn", lambda: browser.run(count) == before + 2)
    browser.wait("end of the answer", lambda: "coming" not in last_turn(browser)[0])
    return last_turn(browser)


def test_a_key_opens_the_page(browser, nodes):
    browser.open(nodes.url)
    shown = "return !document.getElementById('key-form').hidden"
    browser.wait("field for a key", lambda: browser.run(shown))
    browser.type("key", "another key\n")
    browser.wait("word about the key", lambda: "does not open" in browser.text("key-note"))
    browser.type("key", f"{KEY}\n")
    browser.wait("open page", lambda: browser.text("state") == "ready")
    kept = "return [localStorage.length, sessionStorage.length, document.cookie, location.href]"
    assert browser.run(kept) == [0, 0, "", f"{nodes.url}/"]
    refused = [entry for entry in browser.logs("browser") if "401" not in entry["message"]]
    assert refused == [], refused


def test_a_private_prompt_is_answered_and_the_timeline_fills(browser, nodes):
    complete = f"{LAYERS}/{LAYERS}"
    browser.wait("complete cloud prompt", lambda: complete in browser.text("prompts"))
    public_text = lambda: "jade plan costs 42" in browser.text("prompt-text")
    browser.wait("text of the cloud prompt", public_text)
    sent_before = nodes.status()["cloud"]
    _, said, _ = ask(browser, QUESTION)
    assert ANSWER in said, said
    browser.wait("time to the first token", lambda: "ms" in browser.text("ttft"))
    browser.wait("bars of this edge", lambda: bars(browser, "private") >= LAYERS)
    assert bars(browser, "wire") == LAYERS, "the prompt's own arrival is drawn"
    assert bars(browser, "cloud") == LAYERS
    assert "first token" in browser.text("request-chart")
    assert "nothing was sent for this answer" in browser.text("request-caption")
    assert nodes.status()["cloud"] == sent_before
    browser.wait("word about the cloud", lambda: "nothing" in browser.text("told-now"))
    assert "tokens/s" in browser.text("speed")


def test_a_prompt_that_comes_with_the_question(browser, nodes):
    # A name is public; the question under it is not.
    choose(browser, "other:")
    browser.type("other", "other")
    ask(browser, f"{CANARY} asks what the opal plan costs.")
    came = "return document.querySelectorAll('#request-chart rect.wire').length"
    browser.wait("layers on the wire", lambda: browser.run(came) == LAYERS)
    assert bars(browser, "waited") >= 1
    # What the name means, and its layers.
    browser.wait("two messages", lambda: "2 messages" in browser.text("told-now"))
    browser.wait("new prompt in the list", lambda: "other" in browser.text("prompts"))


def test_stop(browser, nodes):
    set_temperature = "document.getElementById('temperature').value = arguments[0]"
    browser.run(set_temperature, 2)
    browser.run("document.getElementById('max-tokens').value = 400")
    choose(browser, "none:")
    stop_after_words = """
        const said = [...document.querySelectorAll('.said')].pop();
        const button = document.getElementById('stop');
        if (!button.disabled && said.textContent) button.click();
        return document.getElementById('send').disabled;
    """
    # An answer may be short by chance: one of many is not.
    for _ in range(20):
        browser.type("words", f"{CANARY} talks on and on\n")
        browser.wait("end", lambda: not browser.run(stop_after_words))
        if last_turn(browser)[2] == "stopped":
            break
    else:
        raise AssertionError("no answer was stopped")
    idle = lambda: nodes.status()["requests"] == {"running": 0, "waiting": 0}
    browser.wait("engine without work", idle)
    browser.wait("free blocks", lambda: nodes.status()["private_kv"]["used_blocks"] == 0)
    browser.run(set_temperature, 0)


def test_an_error_is_told_and_the_words_stay(browser, nodes):
    choose(browser, "other:")
    browser.clear("other")
    browser.type("other", "nowhere")
    _, _, after = ask(browser, "Is anybody there?")
    assert after == "failed", after
    assert "no cloud prompt of that name" in browser.text("problem")
    assert browser.run("return document.getElementById('words').value") == "Is anybody there?"
    choose(browser, "named:desk")
    errors = [entry for entry in browser.logs("browser") if "404" not in entry["message"]]
    assert errors == [], errors


def test_it_can_be_used_with_the_keyboard_and_read_by_machines(browser, nodes):
    unnamed = """
        const own = (e) => e.getAttribute('aria-label') || e.textContent.trim();
        const named = (e) => e.labels?.length || own(e);
        const fields = document.querySelectorAll('input, select, textarea, button, meter');
        return [...fields].filter((e) => !named(e)).map((e) => e.id);
    """
    assert browser.run(unnamed) == []
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for width in [320, 390, 768, 1280]:
        browser.look(width, 844, "light")
        assert browser.run(wide) <= 0, f"the page is too wide for {width} pixels"


def test_colours_can_be_told_apart(browser, nodes):
    ratio = """
        const light = (c) => {
            const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const part = c.map((v) => linear(v / 255));
            return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
        };
        const parse = (c) => c.match(/[0-9.]+/g).map(Number);
        const behind = (e) => {
            for (; e; e = e.parentElement) {
                const c = parse(getComputedStyle(e).backgroundColor);
                if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
            }
            return [255, 255, 255];
        };
        const low = [];
        for (const e of document.querySelectorAll('body *')) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            if (!own || !e.getClientRects().length || e.disabled) continue;
            if (e.closest('svg, .skip, noscript, script')) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
            const r = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (r < 4.5) low.push(`${e.tagName} ${e.id} ${e.className} ${r.toFixed(2)}`);
        }
        return low;
    """
    for scheme in ["light", "dark"]:
        browser.look(1280, 900, scheme)
        low = browser.run(ratio)
        assert low == [], (scheme, low)


NEXT_FRAME = """
    scrollTo(0, 0);
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    return frame().then(frame);
"""


def take_screenshots(browser, folder):
    browser.clear("words")
    browser.click("clear")
    ask(browser, QUESTION)
    browser.wait("end of looking", lambda: "tokens/s" in browser.text("server-speed"))
    sizes = [("desktop", 1360, 900), ("phone", 390, 844)]
    for name, width, height in sizes:
        for scheme in ["light", "dark"]:
            browser.look(width, height, scheme)
            # The drawing follows the size in the next frame.
            browser.run(NEXT_FRAME)
            browser.screenshot(folder / f"{name}-{scheme}.png")
    print(f"screenshots: {folder}")


def check_who_was_talked_to(browser, nodes):
    """Every request of the browser since it started went to the edge node."""
    ours = urlsplit(nodes.url).netloc
    urls = []
    for entry in browser.logs("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    paths = {urlsplit(url).path for url in urls if urlsplit(url).netloc == ours}
    assert {"/", "/page/main.js", "/v1/status", "/v1/completions"} <= paths, paths
    # Until it is told where to go, the browser shows a tab of its own.
    foreign = [url for url in urls if urlsplit(url).netloc != ours]
    own = ("chrome:", "chrome-untrusted:", "data:")
    elsewhere = [url[:200] for url in foreign if not url.startswith(own)]
    assert elsewhere == [], elsewhere


def check_nothing_private_left(nodes):
    """The words are in nothing that the cloud got, and in no log."""
    told = nodes.status()["cloud"]
    assert told["sent_messages"] == len(told["last_messages"]), told
    for words in told["last_messages"]:
        of_a_name = any(f"you call {name}," in words for name in ["desk", "other", "nowhere"])
        of_no_name = words == "which prompts do you serve by name?" or "do you run model" in words
        assert of_a_name or of_no_name, words
    cloud, edge = nodes.log("cloud"), nodes.log("edge")
    assert "edge admitted" in cloud and "/v1/completions" in edge
    for name, log in [("cloud", cloud), ("edge", edge)]:
        for form in [CANARY, CANARY.lower(), CANARY.encode().hex(), "opal plan costs."]:
            assert form not in log, f"{form} is in the log of the {name} node"


def programs_of_the_browser():
    driver = shutil.which("chromedriver")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or browser is None:
        packages = "chromium chromium-driver"
        raise SystemExit(f"chromium and chromedriver are needed: apt-get install {packages}")
    return driver, browser


def main():
    programs = pathlib.Path(sys.argv[1]).resolve()
    driver, chromium = programs_of_the_browser()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        shots = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else root / "screenshots")
        shots.mkdir(parents=True, exist_ok=True)
        nodes = browser = None
        try:
            nodes = Nodes(programs, root)
            browser = Browser(driver, chromium, root, PATIENCE_S)
            tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
            for name, test in tests:
                test(browser, nodes)
                print(f"ok: {name.removeprefix('test_').replace('_', ' ')}")
            take_screenshots(browser, shots)
            check_who_was_talked_to(browser, nodes)
            print("ok: the browser talked to the edge node only")
            check_nothing_private_left(nodes)
            print("ok: nothing private in what the cloud was sent, nor in any log")
            # A browser also writes down that a timeline was asked for too early, which the page expects.
            early = lambda log: "/timeline - " in log["message"] and "404" in log["message"]
            logs = [log for log in browser.logs("browser") if not early(log)]
            assert logs == [], logs
            version = browser.tool("Browser.getVersion")["product"]
        finally:
            if browser:
                browser.close()
            if nodes:
                nodes.stop()
    print(f"{version}: {len(tests) + 2} tests passed")


if __name__ == "__main__":
    main()
