"""Chapter 11 in a real JupyterLab: it opens without a run of one's own, its sliders work, and the menu exports it."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_records import write_explored
from smoke_report import Copy

pytest_plugins = ["chromium"]
SLIDER = ".widget-slider .noUi-handle"
PATIENCE = 120_000  # ms, for a busy machine


@pytest.fixture
def lab(tmp_path, data_folder):
    """The address of a JupyterLab on a copy of the project that has no runs, but tables of the reference."""
    copy, own = Copy(tmp_path, data_folder), tmp_path / "jupyter"
    copy.logits = write_explored(copy.root / "reports" / "reference" / "quick" / "tables")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "token": "", "password": "", "open_browser": False}
    own.mkdir()
    (own / "jupyter_config.json").write_text(
        json.dumps({"ServerApp": server, "ExtensionApp": {"open_browser": False}, "IdentityProvider": {"token": ""}})
    )
    all_cells = own / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    all_cells.parent.mkdir(parents=True)
    all_cells.write_text(json.dumps({"windowingMode": "none"}))  # else those beyond the window are not drawn
    places = {f"JUPYTER_{name}_DIR": str(own) for name in ("CONFIG", "DATA", "RUNTIME")}
    places["JUPYTERLAB_SETTINGS_DIR"] = str(own)
    process = copy.start("lab", PYTHONPATH=str(copy.root), IPYTHONDIR=str(own), **places)
    try:
        began = time.monotonic()
        while not list(own.glob("jpserver-*.json")):
            assert process.poll() is None and time.monotonic() - began < PATIENCE / 1000
            time.sleep(0.1)
        copy.address = f"http://127.0.0.1:{port}/lab/tree/11_explore.ipynb"
        yield copy
    finally:
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            process.terminate()  # it ends its kernels
            for left in psutil.wait_procs(family, timeout=30)[1]:
                left.kill()


def test_open_run_slide_and_export(lab, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)

    def choose(menu, *names):
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{menu}$")).click()
        for name in names:
            page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).click()

    def moved(widget, slider):
        """What a widget says once the right arrow has moved one of the chapter's sliders, and that has changed it."""
        slider, shown = page.locator(SLIDER).nth(slider), page.locator(".widget-html-content").nth(widget)
        before = shown.inner_html()
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("([node, before]) => node.innerHTML != before", arg=[shown.element_handle(), before])
        return shown.inner_text()

    page.goto(lab.address)
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").first.wait_for()  # before, cells are not run
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
    choose("Run", "Run All Cells")
    page.locator(SLIDER).nth(2).wait_for(state="attached")
    soft = np.exp(lab.logits[0] / 4.5)
    said = re.findall(r"([\d.]+) %", moved(widget=0, slider=0))  # from temperature 4
    assert list(map(float, said)) == pytest.approx(100 * soft / soft.sum(), abs=0.06)
    assert "67.50 % on the validation images" in moved(widget=2, slider=2)  # kd_weight 0.5, from temperature 2 to 8
    with page.expect_download() as download:
        choose("File", "Save and Export Notebook As", "Kd_html")
    html = Path(download.value.path()).read_text()
    assert "<h1" in html and html.count('class="picture"') == 3 and "VBox" not in html and "<script" not in html
    assert "Softened probabilities of test image 0 (cat), by the classifier ResNet50. CIFAR-10" in " ".join(
        html.split()
    )
    assert not lab.summaries()
    page.close()
