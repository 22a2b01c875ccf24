"""The picture of the README is made by a command, from the real program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.codex
def test_the_recording_is_made_from_a_real_chat(tmp_path: Path) -> None:
    pytest.importorskip("codex_cli_bin", reason="needs the wheel of codex: pip install 'corral[codex]'")
    target = tmp_path / "chat.svg"
    argv = [sys.executable, str(REPOSITORY / "tools" / "recording.py"), str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "proven_empty" in target.read_text()


def test_the_picture_fetches_nothing_and_names_no_folder_of_whoever_made_it() -> None:
    text = (REPOSITORY / "docs" / "images" / "chat.svg").read_text()
    assert "proven_empty" in text
    assert set(re.findall(r"https?://[^\"' <&]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "https://developers.openai.com/codex/concepts/sandboxing#prerequisites.",
    }
    assert not re.search(r"/(root|home|Users|work)/", text)
    assert len(text) < 150_000
