#!/usr/bin/env python3
"""A serving edge node through OpenAI's own Python package.

    cargo build --release --workspace
    pip install openai
    edge-node/tests/openai_client.py target/release [METRICS_DIR]

With a folder, what both programs answer to GET /metrics in the end is written there.

Starts `cloud-node` and `edge-node serve` from the folder named, both on loopback with the built-in
model, and uses them as a program written for OpenAI would. Nothing but the package is needed.
`.ci/run` does this with a version of the package that it names.
"""

import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import openai

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "shared/model/demo"
DESK = REPOSITORY / "edge-node/src/demo/cloud_prompt.txt"
KEY = "a key for tests"
# A build on a busy machine may take its time; a test that hangs must not.
PATIENCE_S = 60


def started(command, log, *markers):
    """A process that has said all `markers`, the last one last, and the rest of each of those lines."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    said = {}
    for line in process.stdout:
        for marker in markers:
            if line.startswith(marker):
                said[marker] = line.removeprefix(marker).strip()
        if markers[-1] in said:
            return process, *(said[marker] for marker in markers)
    raise SystemExit(f"{command[0]} ended before it said {markers[-1]!r}")


def check(name, test, client):
    test(client)
    print(f"ok: {name}")


def message(text="Ada asks what the ruby plan costs.\n"):
    return [{"role": "user", "content": text}]


def chat(client, **more):
    return client.chat.completions.create(model="demo", temperature=0, messages=message(), **more)


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "demo" and model.max_model_len == 512, model


def test_chat(client):
    answer = chat(client, max_tokens=32)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content, answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < answer.usage.prompt_tokens, answer.usage
    alone = chat(client, max_tokens=32, extra_body={"cloud_prompt": False})
    assert alone.usage.prompt_tokens_details.cached_tokens == 0


def test_streaming(client):
    whole = chat(client, max_tokens=32)
    options = {"include_usage": True}
    chunks = list(chat(client, max_tokens=32, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1]


def test_text_completions(client):
    ask = lambda prompt, **more: client.completions.create(
        model="demo", prompt=prompt, temperature=0, **more
    )
    answer = ask("Ada asks.\n", max_tokens=8, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    assert ask([5, 6, 7], max_tokens=3).usage.completion_tokens <= 3
    stop = answer.choices[0].text[2:4]
    stopped = ask("Ada asks.\n", max_tokens=8, stop=stop)
    assert stop not in stopped.choices[0].text and stopped.choices[0].finish_reason == "stop"


def test_logprobs(client):
    answer = chat(client, max_tokens=5, logprobs=True, top_logprobs=3)
    for token in answer.choices[0].logprobs.content:
        assert token.logprob == token.top_logprobs[0].logprob and len(token.top_logprobs) == 3


def test_errors(client):
    for error, ask in [
        (openai.BadRequestError, lambda: chat(client, max_tokens=8, top_p=7)),
        (openai.BadRequestError, lambda: chat(client, n=2)),
        (openai.NotFoundError, lambda: chat(client, extra_body={"cloud_prompt": "none"})),
        (openai.AuthenticationError, lambda: chat(client.with_options(api_key="another"))),
        (
            openai.NotFoundError,
            lambda: client.chat.completions.create(model="other", messages=message()),
        ),
    ]:
        try:
            ask()
        except error as refused:
            assert refused.body["message"] and refused.request_id, refused.body
        else:
            raise AssertionError(f"no {error.__name__}")


def test_many_at_once(client):
    ask = lambda index: client.chat.completions.create(
        model="demo", messages=message(f"Guest {index} asks.\n"), temperature=0, max_tokens=24
    )
    text = lambda index: ask(index).choices[0].message.content
    alone = [text(index) for index in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(text, range(16))) == alone


def test_cancellation(client):
    stream = chat(client, max_tokens=300, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + PATIENCE_S
    root = str(client.base_url).removesuffix("/v1/")
    while "edge_num_requests_running 0\n" not in client._client.get(f"{root}/metrics").text:
        assert time.monotonic() < deadline, "the request goes on without its client"
        time.sleep(0.05)


def main():
    programs = pathlib.Path(sys.argv[1])
    folder = tempfile.TemporaryDirectory()
    root = pathlib.Path(folder.name)
    (root / "prompts").mkdir()
    (root / "prompts/desk.txt").write_bytes(DESK.read_bytes())
    (root / "keys").write_text(KEY)
    cloud_program, edge_program = programs / "cloud-node", programs / "edge-node"
    cloud_identity, edge_identity = ["--identity", root / "cloud"], ["--identity", root / "edge"]
    printed = subprocess.run(
        [cloud_program, "init", *cloud_identity], check=True, text=True, capture_output=True
    ).stdout
    subprocess.run(
        [edge_program, "join", printed.split()[-1], *edge_identity],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    processes = []
    with open(root / "log", "w") as log:
        try:
            options = ["--model", MODEL, "--prompts", root / "prompts", "--listen", "127.0.0.1:0"]
            options += ["--metrics-listen", "127.0.0.1:0"]
            command = [cloud_program, "serve", *options, *cloud_identity]
            process, cloud_metrics, cloud = started(command, log, "metrics on ", "listening on ")
            processes.append(process)
            options = ["--model", MODEL, "--cloud", cloud, "--cloud-prompt", "desk", "--port", "0"]
            options += ["--api-key-file", root / "keys", "--remembered", root / "remembered"]
            command = [edge_program, "serve", *options, *edge_identity]
            process, url = started(command, log, "listening on ")
            processes.append(process)
            client = openai.OpenAI(
                base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
            )
            tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
            for name, test in tests:
                check(name.removeprefix("test_").replace("_", " "), test, client)
            for name, page in [("edge", f"{url}/metrics"), ("cloud", cloud_metrics)]:
                for metrics_dir in sys.argv[2:]:
                    text = client._client.get(page).text
                    pathlib.Path(metrics_dir, f"{name}.prom").write_text(text)
        finally:
            for process in processes:
                process.terminate()
                process.wait(PATIENCE_S)
    folder.cleanup()
    print(f"openai {openai.__version__}: {len(tests)} tests passed")


if __name__ == "__main__":
    main()
