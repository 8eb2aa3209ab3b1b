"""A browser that is told what to do, through WebDriver (https://www.w3.org/TR/webdriver2/).

As little of the protocol as the test of the page needs, with Python's standard library only.
"""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request

# The browser may talk to nobody but the page's server.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
STARTED = "was started successfully on port "


class Browser:
    """One headless Chromium with a profile of its own."""

    def __init__(self, driver, browser, folder, patience_s):
        self.patience_s = patience_s
        command = [driver, "--port=0", f"--log-path={folder}/chromedriver.log"]
        self.driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if STARTED in line:
                port = line.split(STARTED)[1].strip().rstrip(".")
                break
        else:
            raise SystemExit(f"{driver} ended before it said where it listens")
        self.root = f"http://127.0.0.1:{port}"
        options = {
            "binary": browser,
            "args": [*ARGUMENTS, f"--user-data-dir={folder}/profile", "about:blank"],
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        self.session = self.send("POST", "/session", body)["sessionId"]

    def send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, method=method)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=self.patience_s) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:600]}") from None

    def ask(self, path, body=None):
        method = "GET" if body is None else "POST"
        return self.send(method, f"/session/{self.session}{path}", body)

    def tool(self, name, **parameters):
        """A command of Chromium's own protocol."""
        return self.ask("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def open(self, url):
        self.ask("/url", {"url": url})

    def run(self, script, *arguments):
        """What a JavaScript function body returns."""
        return self.ask("/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, element_id):
        return self.run("return document.getElementById(arguments[0]).textContent", element_id)

    def element(self, element_id):
        found = self.ask("/element", {"using": "css selector", "value": f"#{element_id}"})
        return found[ELEMENT]

    def click(self, element_id):
        self.ask(f"/element/{self.element(element_id)}/click", {})

    def clear(self, element_id):
        self.ask(f"/element/{self.element(element_id)}/clear", {})

    def type(self, element_id, text):
        self.ask(f"/element/{self.element(element_id)}/value", {"text": text})

    def wait(self, what, is_so):
        """Returns what `is_so` gives once that is true."""
        deadline = time.monotonic() + self.patience_s
        while not (found := is_so()):
            assert time.monotonic() < deadline, f"no {what}: the page says\n{self.page()}"
            # A look is a request to the browser, so this only spares the processor.
            time.sleep(0.02)
        return found

    def page(self):
        return self.run("return document.body.innerText")

    def look(self, width, height, scheme):
        """As a screen of this size whose owner prefers this colour scheme shows the page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tool("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.tool("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path):
        shot = self.tool("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def logs(self, kind):
        """What was logged since the last time."""
        return self.ask("/se/log", {"type": kind})

    def close(self):
        try:
            self.send("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait(self.patience_s)
