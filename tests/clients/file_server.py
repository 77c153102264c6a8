"""A web server for models: ranges and versions as real ones have them, a speed limit, and a count of what was sent."""

import http.server
import threading
import time

CHUNK = 16 << 10


class FileServer:
    """Serves `content` under every path; `bytes_per_second` bounds all connections together."""

    def __init__(self, content, bytes_per_second=None):
        self.content, self.bytes_per_second = content, bytes_per_second
        self.asked, self.sent, self.open, self.lock, self.free_at = [], 0, 0, threading.Lock(), time.monotonic()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        total, tag = len(self.content), '"one"'
        begin, end = 0, total
        ranged = request.headers.get("Range")
        if ranged and request.headers.get("If-Range", tag) == tag:
            first, last = ranged.removeprefix("bytes=").split("-")
            begin, end = int(first), int(last) + 1 if last else total
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
        else:
            request.send_response(200)
        with self.lock:
            self.asked.append((request.path, begin, end))
            self.open += 1
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(end - begin))
        request.end_headers()
        try:
            for at in range(begin, end, CHUNK):
                piece = self.content[at : min(at + CHUNK, end)]
                self.wait(len(piece))
                request.wfile.write(piece)
                with self.lock:
                    self.sent += len(piece)
        except OSError:
            request.close_connection = True
        finally:
            with self.lock:
                self.open -= 1

    def wait(self, count):
        if not self.bytes_per_second:
            return
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic()) + count / self.bytes_per_second
            wait = self.free_at - time.monotonic()
        time.sleep(max(wait, 0))

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
