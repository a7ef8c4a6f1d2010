"""What the adapters store of a model: enough to open it again, wherever this process is by then, and no secret."""

from pathlib import Path

import pytest

from crossrt import CrossEncoder
from crossrt.integrations.model import described


def test_an_opened_model_is_described_by_the_place_where_it_was_opened(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "current").symlink_to(bundle)
    monkeypatch.chdir(tmp_path)
    with CrossEncoder("current", max_length=20) as model:
        monkeypatch.chdir("/")
        path, options = described(model)
        (tmp_path / "current").unlink()
        assert path == str(bundle.resolve())
        with CrossEncoder(path, **options) as again:
            assert again.predict([("q", "a b")]).tolist() == model.predict([("q", "a b")]).tolist()


@pytest.mark.parametrize("name", ["token", "use_auth_token"])
def test_a_token_is_left_out(name: str) -> None:
    given = {name: "hf_secret", "precision": "int8", "model_kwargs": {name: "hf_secret", "threads": 1}}
    assert described("user/model", given) == ("user/model", {"precision": "int8", "model_kwargs": {"threads": 1}})
    assert given[name] == "hf_secret"
