"""TorchServe's settings: read, rendered, and refused with the name of what is wrong."""

import socket
from pathlib import Path

import pytest

from launcher.properties import (
    CONFIG,
    ROOT,
    PortBusyError,
    PropertiesError,
    check_ports,
    free_ports,
    loaded_model,
    read_properties,
    render_properties,
)


def write(folder: Path, **changes: str | None) -> Path:
    """Write the project's own settings with `changes`; None leaves one out."""
    merged = read_properties() | changes
    path = folder / "config.properties"
    path.write_text(render_properties({name: value for name, value in merged.items() if value is not None}))
    return path


def test_the_projects_own_settings_keep_torchserve_on_loopback_with_absolute_paths() -> None:
    properties = read_properties()
    assert {properties[f"{api}_address"].rsplit(":", 1)[0] for api in ("inference", "management", "metrics")} == {
        "http://127.0.0.1"
    }
    assert properties["enable_model_api"] == "false"
    assert properties["model_store"] == str(ROOT / "model_store")
    assert properties["allowed_urls"] == f"file://{ROOT}/model_store/.*"
    assert loaded_model(properties) == ("godel", ROOT / "model_store" / "godel.mar")


def test_what_is_rendered_is_read_again_as_it_was(tmp_path: Path) -> None:
    assert read_properties(write(tmp_path)) == read_properties(CONFIG)


@pytest.mark.parametrize("folder", ["/home/joé/godel", "/home/名前/𐀀", "/a\\b", "/u0041"])
def test_paths_of_any_letters_reach_java_in_ascii_and_come_back(tmp_path: Path, folder: str) -> None:
    rendered = render_properties(read_properties() | {"model_store": folder})
    assert rendered.isascii()
    (tmp_path / "config.properties").write_text(rendered)
    assert read_properties(tmp_path / "config.properties")["model_store"] == folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inference_address", "http://127.0.0.1:eighty"),
        ("management_address", "http://127.0.0.1"),
        ("metrics_address", "8082"),
        ("grpc_inference_port", "70700"),
        ("grpc_management_port", "-1"),
        ("load_models", None),
        ("model_store", ""),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, name: str, value: str | None) -> None:
    with pytest.raises(PropertiesError, match=name):
        read_properties(write(tmp_path, **{name: value}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PropertiesError, match="nowhere"):
        read_properties(tmp_path / "nowhere")


@pytest.mark.parametrize("load_models", ["all", "godel.mar", "a=a.mar,b=b.mar"])
def test_only_one_named_model_is_loaded_at_start(load_models: str) -> None:
    with pytest.raises(PropertiesError, match=load_models):
        loaded_model({"load_models": load_models, "model_store": "/"})


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports()
    assert len(set(ports.values())) == len(ports)
    check_ports(ports)


@pytest.mark.parametrize("name", [name for name in free_ports() if name != "initial_worker_port"])
def test_a_busy_port_is_named_with_the_setting_that_changes_it(name: str) -> None:
    ports = free_ports()
    number = int(ports[name].rsplit(":", 1)[-1])
    with socket.create_server(("127.0.0.1", number)), pytest.raises(PortBusyError) as busy:
        check_ports(ports)
    assert f"port {number}" in str(busy.value)
    assert f"{name} in config.properties" in str(busy.value)
    assert "\n" not in str(busy.value)
