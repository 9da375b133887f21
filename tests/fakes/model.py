"""A language model for coding agents: it answers with every question that the conversation holds.

It serves the streams of OpenAI's Responses API (Codex) and of its Chat Completions API (OpenCode) on loopback. A
question is a message of the user that begins with "ask".
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "memory"


class Model(ThreadingHTTPServer):
    """Serves until it is closed, at the base `url`.

    In the middle of the answer `stop_in` it waits for may_go_on; `waits` is set then. answers are all that it began,
    broken counts those whose connection broke.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.stop_in = ""
        self.may_go_on = threading.Event()
        self.waits = threading.Event()
        self.answers: list[str] = []
        self.broken = 0
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.may_go_on.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or reset is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = {"/v1/responses": _responses, "/v1/chat/completions": _chat_completions}
        answer = answers.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        text = _answer(request.get("input") or request["messages"])
        self.server.answers.append(text)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._stream(answer(text), stop=text == self.server.stop_in)
        except OSError:
            self.server.broken += 1
            raise

    def _stream(self, events: Iterator[bytes], *, stop: bool) -> None:
        for event in (*events, b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            if stop:
                self.server.waits.set()
                self.server.may_go_on.wait()

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _answer(messages: list[dict[str, Any]]) -> str:
    questions = [text for message in messages if message.get("role") == "user" for text in _texts(message["content"])]
    return "I know " + ", ".join(text for text in questions if text.startswith("ask"))


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [part.get("text", "") for part in content]


def _responses(text: str) -> Iterator[bytes]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response = {"id": "r", "object": "response", "status": "completed", "output": [message], "usage": usage}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": {"id": "r"}}),
        ("response.output_item.done", {"output_index": 0, "item": message}),
        ("response.completed", {"response": response}),
    ]
    for name, event in events:
        yield f"event: {name}\ndata: {json.dumps({'type': name, **event})}\n\n".encode()


def _chat_completions(text: str) -> Iterator[bytes]:
    beginning, _, rest = text.partition(" ")
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": beginning}, None),
        ({"content": f" {rest}"}, None),
        ({}, "stop"),
    ]
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"
