# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Meters: lines of tegrastats of four generations, RAPL in a made-up sysfs, an NVML written in C.

The lines have the forms that JetPack 4.2 (github.com/martinkersner/gtop/pull/7), 5 and 6
(docs.nvidia.com/jetson, "Tegrastats Utility"; github.com/henrygd/beszel/issues/286) and 7
(github.com/wendylabsinc/WendyOS/pull/1316) print; which rail feeds which is told in
github.com/rbonghi/jetson_stats/issues/51 and /344.
"""

import ctypes
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rgbx_seg_ros import cuda, gpu_monitor, power
from rgbx_seg_ros.gpu_monitor import GpuMonitor
from rgbx_seg_ros.power import Meters, NvmlMeter, RaplMeter, TegrastatsMeter

BUSY = ('RAM 2448/7620MB (lfb 5x4MB) SWAP 3/3810MB (cached 1MB) IRAM 0/252kB(lfb 252kB) '
        'CPU [12%@1510,off,0%@1510] EMC_FREQ 4%@2133 GR3D_FREQ 61%@[611,0] APE 174 NVENC OFF ')
LINES = {
    # Jetson Nano, JetPack 4: no unit; the input rail holds the other two.
    'nano': (BUSY + 'PLL@36C CPU@38.5C PMIC@100C GPU@37C AO@44C thermal@37.75C '
             'POM_5V_IN 4259/2512 POM_5V_GPU 1240/310 POM_5V_CPU 921/402', 4.259),
    # AGX Xavier, JetPack 4.2: six rails side by side, none of which feeds the others.
    'xavier': (BUSY + 'AO@30C GPU@30.5C Tboard@31C PMIC@100C GPU 463/463 CPU 618/618 '
               'SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306', 7.632),
    # Xavier NX, JetPack 4.6.
    'xavier nx': (BUSY + 'AO@42.5C thermal@41.7C VDD_IN 5336/4970 VDD_CPU_GPU_CV 2617/2336 '
                  'VDD_SOC 1478/1318', 5.336),
    # Orin Nano, JetPack 5 and 6: a time in front, small letters, the unit.
    'orin nano': ('11-20-2026 10:11:12 ' + BUSY + 'cpu@48.1C soc2@47.9C tj@48.6C gpu@47.2C '
                  'VDD_IN 6124mW/5011mW VDD_CPU_GPU_CV 1890mW/733mW VDD_SOC 1551mW/1329mW', 6.124),
    # AGX Orin, JetPack 5 and 6: the 5 V rail feeds all but two, and the memory is in it.
    'agx orin': ('11-20-2026 10:11:12 ' + BUSY + 'cpu@52.0C tboard@40C gpu@48.3C '
                 'VDD_GPU_SOC 9204mW/4411mW VDD_CPU_CV 1200mW/800mW VIN_SYS_5V0 4032mW/3629mW '
                 'NC 0mW/0mW VDDQ_VDD2_1V8AO 806mW/604mW NC 0mW/0mW', 14.436),
    # AGX Thor, JetPack 7: no GR3D_FREQ, limits beside temperatures, the board's input.
    'agx thor': ('11-20-2026 10:11:12 RAM 5601/125772MB (lfb 3x4MB) SWAP 0/0MB (cached 0MB) '
                 'CPU [0%@972,3%@972] cpu@40.531C/C tj@41.781C gpu@39.906C/C '
                 'VDD_GPU 4745mW/3164mW VDD_CPU_SOC_MSS 8700mW/7909mW VIN_SYS_5V0 5436mW/5436mW '
                 'VIN 27831mW/25830mW', 27.831),
}


@pytest.mark.parametrize('board', LINES)
def test_power_of_a_board_counts_no_rail_twice(board):
    line, watts = LINES[board]
    assert power.board_power(power.read_rails(line))[0] == pytest.approx(watts)


def test_a_line_without_rails_is_no_power():
    assert power.read_rails(BUSY) == {}
    assert power.board_power({}) == (0, [])


def write_program(path: Path, body: str) -> Path:
    path.write_text(f'#!/bin/sh\n{body}\n')
    path.chmod(0o755)
    return path


def test_tegrastats_gives_the_mean_since_the_beginning_and_is_ended(tmp_path):
    others = threading.active_count()  # of tests before
    lines = ('VDD_IN 3000mW/1mW', 'RAM 1/2MB', 'VDD_IN 5000mW/1mW')
    body = 'while :; do\n' + '\n'.join(f'echo "{line}"' for line in lines) + '\nsleep 0.02\ndone'
    meters = Meters(tmp_path, str(write_program(tmp_path / 'tegrastats', body)))
    deadline = time.monotonic() + 5
    meters.begin()
    while meters.names != ['tegrastats VDD_IN'] and time.monotonic() < deadline:
        time.sleep(0.02)
    meters.begin()
    time.sleep(0.3)
    figures = meters.end()
    assert figures['watts'] == pytest.approx(4, abs=0.5)  # a pair of lines may be cut in two
    assert figures['joules'] == pytest.approx(figures['watts'] * figures['seconds'])
    meters.close()
    assert threading.active_count() == others


def test_a_tegrastats_that_says_nothing_is_no_figure(tmp_path):
    meter = TegrastatsMeter(str(write_program(tmp_path / 'tegrastats', 'exec sleep 9')))
    meter.begin()
    assert meter.end() is None
    meter.close()


def write_zone(root: Path, number: str, name: str, energy: int = 0, limit: int = 10**9) -> Path:
    zone = root / f'intel-rapl:{number}'
    zone.mkdir()
    for file, value in (('name', name), ('energy_uj', energy), ('max_energy_range_uj', limit)):
        (zone / file).write_text(f'{value}\n')
    return zone


def test_rapl_adds_packages_and_memory_but_no_part_of_them(tmp_path):
    for number, name in (('0', 'package-0'), ('0:0', 'core'), ('0:1', 'dram'), ('1', 'package-1'),
                         ('2', 'psys')):
        write_zone(tmp_path, number, name)
    meters = Meters(tmp_path, 'no-such-program')
    assert meters.names == ['RAPL package-0', 'RAPL dram', 'RAPL package-1']
    meters.begin()
    for number, joules in (('0', 30), ('0:0', 20), ('0:1', 5), ('1', 10), ('2', 99)):
        (tmp_path / f'intel-rapl:{number}' / 'energy_uj').write_text(f'{joules * 10**6}\n')
    assert meters.end()['joules'] == pytest.approx(45)


def test_rapl_counter_that_began_anew_is_followed(tmp_path):
    zone = write_zone(tmp_path, '0', 'package-0', energy=262_143_000_000, limit=262_143_328_850)
    meter = RaplMeter(zone)
    meter.begin()
    (zone / 'energy_uj').write_text('1671150\n')
    assert meter.end() == pytest.approx(2.0)


def test_rapl_that_root_alone_may_read_is_told_and_is_no_figure(tmp_path, monkeypatch):
    write_zone(tmp_path, '0', 'package-0')
    read = Path.read_text

    def refuse(path, *arguments):
        if path.name == 'energy_uj':
            raise PermissionError(13, 'Permission denied', str(path))
        return read(path, *arguments)

    monkeypatch.setattr(Path, 'read_text', refuse)
    meters = Meters(tmp_path, 'no-such-program')
    assert meters.names == [] and meters.problems == [
        'RAPL is there, but root alone may read it']
    meters.begin()
    assert meters.end() == {}


NVML = r"""
#include <string.h>
static unsigned long long energy = 5000000;
static char bus[32];
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return 0; }
int cuDeviceGetPCIBusId(char *s, int n, int d) { strncpy(s, "0000:65:00.0", n); return 0; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *s, void **d) {
  strncpy(bus, s, 31); *d = bus; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned n, void **d) { return 6; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) {
  strncpy(s, strcmp(d, "0000:65:00.0") ? "another" : "Made-up GPU", n); return 0; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "999.01", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) {
  m[0] = 8000000000; m[1] = 7250000000; m[2] = 750000000; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
  if (!COUNTS) return 3;
  *mj = energy; energy += 1500; return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 61500; return 0; }
"""


@pytest.fixture(scope='module')
def compile_nvml(tmp_path_factory):
    """Return a function that builds the library above and returns its path."""
    compiler = shutil.which('cc')
    if compiler is None:
        pytest.skip('there is no C compiler')

    def build(**values):
        folder = tmp_path_factory.mktemp('nvml')
        (folder / 'nvml.c').write_text(NVML)
        subprocess.run([compiler, '-shared', '-fPIC', '-w', 'nvml.c', '-o', 'nvml.so',
                        *(f'-D{name}={value}' for name, value in values.items())], cwd=folder,
                       check=True)
        return str(folder / 'nvml.so')

    return build


def test_nvml_tells_of_the_gpu_that_cuda_counts_first(compile_nvml, monkeypatch, tmp_path):
    library = compile_nvml(INIT=0, COUNTS=1)
    monkeypatch.setattr(gpu_monitor, 'LIBRARY', library)
    monkeypatch.setattr(cuda, 'LIBRARY', library)
    monitor = GpuMonitor()
    assert (monitor.name, monitor.driver) == ('Made-up GPU', '999.01')
    assert monitor.used_mb() == 750 and monitor.power_w() == 61.5
    meters = Meters(tmp_path, 'no-such-program')
    assert meters.names == ['NVML Made-up GPU']
    meters.begin()
    assert meters.end()['by_meter'] == {'NVML Made-up GPU': 1.5}
    meters.close()
    assert monitor.power_w() == 61.5
    monitor.close()
    assert monitor.power_w() is None and monitor.name == ''


def test_nvml_without_an_energy_counter_is_sampled(compile_nvml, monkeypatch):
    others = threading.active_count()  # of tests before
    library = compile_nvml(INIT=0, COUNTS=0)
    monkeypatch.setattr(cuda, 'LIBRARY', library)
    meter = NvmlMeter(GpuMonitor(library))
    meter.begin()
    time.sleep(0.25)
    joules = meter.end()
    assert joules == pytest.approx(61.5 * 0.25, rel=0.5)
    meter.close()
    assert threading.active_count() == others


def test_nvml_that_does_not_start_is_told(compile_nvml, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_monitor, 'LIBRARY', compile_nvml(INIT=9, COUNTS=1))
    meters = Meters(tmp_path, 'no-such-program')
    assert meters.names == [] and meters.problems == ['NVML does not start (nvmlReturn 9)']


def test_a_machine_without_nvml_answers_none(tmp_path):
    monitor = GpuMonitor(str(tmp_path / 'none.so'))
    assert (monitor.name, monitor.driver, monitor.problem) == ('', '', '')
    assert monitor.used_mb() is monitor.energy_j() is monitor.power_w() is None
    monitor.close()


def test_memory_record_has_the_layout_of_nvml_h():
    assert ctypes.sizeof(gpu_monitor._Memory) == 24  # three unsigned long long
