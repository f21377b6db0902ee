"""Joules from counters that are files here; those of GPUs are not tried."""

from pathlib import Path

from tasks.run.energy import Energy


def write(folder: Path, zone: str, name: str, microjoules: int, largest: int = 1_000_000_000) -> None:
    (folder / zone).mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (folder / zone / file).write_text(f"{content}\n")


def test_processors_are_added_and_parts_of_them_are_not(tmp_path: Path) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1"), ("intel-rapl:0:0", "core")):
        write(tmp_path, zone, name, 999_000_000)
    write(tmp_path, "intel-rapl:2", "psys", 5)
    energy = Energy()
    energy.start((), tmp_path)
    assert energy.joules == {"CPU": 0.0}
    write(tmp_path, "intel-rapl:0", "package-0", 999_500_000)
    write(tmp_path, "intel-rapl:1", "package-1", 2_000_000)  # has begun anew
    write(tmp_path, "intel-rapl:0:0", "core", 999_400_000)
    energy.poll()
    assert energy.joules == {"CPU": 0.5 + 3.0}
    write(tmp_path, "intel-rapl:0", "package-0", 999_600_000)
    energy.poll()  # not due yet
    assert energy.joules == {"CPU": 3.5}
    energy.poll(now=True)
    assert energy.joules == {"CPU": 3.6}


def test_starts_are_added_where_all_of_them_could_count(tmp_path: Path) -> None:
    write(tmp_path, "intel-rapl:0", "package-0", 0)
    going_on = Energy()
    going_on.go_on_from({"CPU": 40.0, "GPU": 70.0})
    going_on.start((), tmp_path)
    write(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    going_on.poll(now=True)
    assert going_on.joules == {"CPU": 42.0}  # the GPU of the start before cannot be read here
    late = Energy()
    late.go_on_from({})
    late.start((), tmp_path)
    assert late.joules == {}


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    energy = Energy()
    energy.start((), tmp_path / "nothing")
    energy.poll(now=True)
    assert energy.joules == {}
    write(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("no number")
    energy.start((), tmp_path)
    assert energy.joules == {}
