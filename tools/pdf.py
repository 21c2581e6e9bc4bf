"""The whole book as one PDF: one page made by the book's builder, printed by Chromium or Chrome.

    python tools/pdf.py _build/book.pdf

$CHROME names the browser, where it is not found by its usual names. Without one there is no PDF,
and one line says so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BUILD = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
MATHS = 60_000  # milliseconds of the page's own time for its formulas


def browser() -> str | None:
    """The first browser that is there."""
    known = filter(None, [os.environ.get("CHROME"), *NAMES])
    return next((found for name in known if (found := shutil.which(name))), None)


def single_page(folder: Path) -> Path:
    """The book as one HTML page, in the folder from which its links to images lead."""
    words = ["--builder", "singlehtml", "--all", "-q", "--path-output", str(folder)]
    subprocess.run([*BUILD, str(ROOT), *words], check=True, stdout=subprocess.DEVNULL)
    made = folder / "_build" / "singlehtml"
    page = made / "book" / "index.html"
    return page.rename(made / "index.html") if page.exists() else made / "index.html"


def main(out: Path) -> int:
    if (program := browser()) is None:
        print("pdf: Chromium or Chrome is needed ($CHROME names another place)", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        page = single_page(Path(folder))
        subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
             "--generate-pdf-document-outline",
             f"--virtual-time-budget={MATHS}", f"--print-to-pdf={out.resolve()}", page.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/pdf.py FILE.pdf")
    sys.exit(main(Path(sys.argv[1])))
