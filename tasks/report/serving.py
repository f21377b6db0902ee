"""`python -m tasks.compare RUNS... --serve`: the report on this machine alone, made anew while runs go on."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

from tasks.errors import TaskError
from tasks.report.content import report_content
from tasks.report.known_runs import KnownRuns
from tasks.report.runs import Run, ranked_by
from tasks.report.sections import in_sections
from tasks.report.writing import assemble, require_bundle

HOST = "127.0.0.1"
SECONDS = 10.0
"""Time between two looks at the files."""
WATCHED_SECONDS = 60.0
"""Time after which a page that has asked nothing counts as closed: then nobody looks at the files."""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",  # beside the page's own
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveReport:
    """The newest report of some run folders.

    Args:
        runs: The runs.
        folder: Where the pictures are put.
        score: What they are compared by; None for their headline.
        about: Paragraphs that stand above the numbers.

    Attributes:
        page: The page.
        version: What tells it from the one before.
        trouble: Why it could not be made anew, in a line; empty where it was.
    """

    def __init__(self, runs: KnownRuns, folder: Path, score: str | None = None, about: Sequence[str] = ()) -> None:
        self.runs, self.folder, self.score, self.about = runs, folder, score, about
        self.page, self.version, self.trouble = "", "", ""
        self._ended = threading.Event()
        self._unshown: list[Run] | None = None
        self._last_asked = 0.0

    def look(self) -> None:
        """Makes the page anew if a file has changed.

        Raises:
            TaskError: There is no run.
        """
        found = self.runs.look()
        self._unshown = self._unshown if found is None else found
        if self._unshown is None:
            return
        sections = in_sections(ranked_by(self._unshown, self.score) if self.score else self._unshown)
        content = report_content(sections, self.folder, self.runs.resamples, self.runs.scores)
        version = str(time.time_ns())
        self.page = assemble({**content, "about": self.about, "version": version}, live=True)
        self.version = version  # behind the page: whoever reads it gets this one or a later one
        self._unshown = None

    def keep_looking(self) -> None:
        """Looks again and again, as long as somebody watches, until `end`."""
        while not self._ended.wait(SECONDS):
            if time.monotonic() - self._last_asked < WATCHED_SECONDS:
                try:
                    self.look()
                except Exception as error:  # of any kind: the page says so, and the next look may be better
                    self.trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
                else:
                    self.trouble = ""

    def end(self) -> None:
        """Ends `keep_looking`."""
        self._ended.set()

    async def get_page(self, _: web.Request) -> web.Response:
        """Answers with the page."""
        self._last_asked = time.monotonic()
        return web.Response(text=self.page, content_type="text/html")

    async def get_version(self, _: web.Request) -> web.Response:
        """Answers with the version of the page, and what is wrong."""
        self._last_asked = time.monotonic()
        return web.json_response({"version": self.version, "trouble": self.trouble})


def make_app(report: LiveReport) -> web.Application:
    """What answers a browser: the page, its version, and the pictures beside it."""
    pictures = report.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    app = web.Application(middlewares=[_of_this_machine])
    app.add_routes([web.get("/", report.get_page), web.get("/version", report.get_version)])
    app.add_routes([web.static("/pictures", pictures)])
    return app


@web.middleware
async def _of_this_machine(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuses pages of others whose name leads to this machine; through a tunnel the port may be another one."""
    if request.url.host not in (HOST, "localhost"):
        raise web.HTTPForbidden(text=f"this report is served as {HOST} only", headers=HEADERS)
    answer = await handler(request)
    answer.headers.update(HEADERS)
    return answer


def listen(port: int) -> socket.socket:
    """Opens a port of this machine, any free one for 0.

    Raises:
        TaskError: It cannot be had.
    """
    try:
        return socket.create_server((HOST, port))
    except OverflowError as error:
        raise TaskError(f"--port {port} is no port, expected 0 to 65535") from error
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
        raise TaskError(f"--port {port} of {HOST} is {reason}; give another one, or 0 for any that is free") from error


def serve(
    places: Sequence[Path], port: int, resamples: int, score: str | None = None, about: Sequence[str] = ()
) -> None:
    """Serves the report of some run folders until Ctrl-C.

    Args:
        places: Run folders, or folders above them.
        port: Port on 127.0.0.1; 0 for any that is free.
        resamples: Resamples of the images for differences; 0 leaves them out.
        score: What runs are compared by; None for their headline.
        about: Paragraphs that stand above the numbers.

    Raises:
        TaskError: There is no run, none has the score, or the port cannot be had.
    """
    require_bundle()
    temporary = TemporaryDirectory(prefix="attndense-report-", ignore_cleanup_errors=True)
    with contextlib.suppress(KeyboardInterrupt), listen(port) as listener, temporary as folder:
        report = LiveReport(KnownRuns(places, resamples), Path(folder), score, about)
        report.look()
        print(f"http://{HOST}:{listener.getsockname()[1]}/ until Ctrl-C", flush=True)  # noqa: T201
        threading.Thread(target=report.keep_looking, daemon=True).start()
        try:
            web.run_app(make_app(report), sock=listener, print=None, access_log=None, shutdown_timeout=1)
        finally:
            report.end()
