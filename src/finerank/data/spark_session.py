"""A Spark session for the time of one preparation, and what Spark says when it fails."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from typing import IO, TYPE_CHECKING

from finerank.data.engine import unreadable
from finerank.errors import FinerankError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

_SETTINGS = {  # of the session: what DuckDB does
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.caseSensitive": "true",
    "spark.sql.ansi.enabled": "true",
}
_OF_DUCKDB = re.compile(r"^\S*duckdb\.\w+: (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
_MIB = {"MB": 1, "GB": 1024}
_FIX = "Install finerank[spark] and Java 17 (set JAVA_HOME, or put java on the PATH)."


@contextlib.contextmanager
def spark_session(folder: Path, memory: str | None, master: str | None) -> Iterator[SparkSession]:
    """A session of the Spark that this process has, or else of one that ends with it.

    Args:
        folder: for what Spark writes beside the tables.
        memory: the heap of the driver, such as 2GB; of a Spark that is started here.
        master: where Spark runs; as Spark is configured if left out.

    Raises:
        FinerankError: there is no Spark or no Java, the one there is another; or Spark failed.
    """
    with warnings.catch_warnings():
        # finerank gives and takes Arrow, never pandas
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        try:
            from py4j.protocol import Py4JError  # noqa: PLC0415  (an extra)
            from pyspark.errors import PySparkException  # noqa: PLC0415
            from pyspark.sql import SparkSession  # noqa: PLC0415
        except ImportError as error:
            raise FinerankError(
                "engine spark", expected="pyspark", found=str(error), fix=_FIX
            ) from error
        running = SparkSession.getActiveSession()
        if running is None:
            context = _start(folder, memory, master)
        else:
            _check(running, memory, master)
            context = running.sparkContext
        try:
            session = SparkSession(context).newSession()
            for name, value in _SETTINGS.items():
                session.conf.set(name, value)
            yield session
        except (PySparkException, Py4JError) as error:
            raise _told(str(error)) from error
        finally:
            if running is None:
                context.stop()


def _check(running: SparkSession, memory: str | None, master: str | None) -> None:
    there = running.sparkContext.master
    if master not in (None, there) or memory is not None:
        raise FinerankError(
            "engine spark",
            expected="no master or memory beside a Spark session of this process",
            found=f"{master or memory}, and a session on {there}",
            fix="Leave them out, or stop the session.",
        )


def _start(folder: Path, memory: str | None, master: str | None) -> SparkContext:
    """Start Spark, without its page and without its log on the terminal."""
    from pyspark import SparkConf  # noqa: PLC0415
    from pyspark.errors import PySparkException  # noqa: PLC0415

    conf = SparkConf().setAppName("finerank prepare")
    conf.set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false")
    conf.set("spark.sql.catalogImplementation", "in-memory")
    conf.set("spark.sql.warehouse.dir", str(folder / "warehouse"))
    conf.set("spark.driver.maxResultSize", "0")  # what is collected is meant to be
    if master is not None:
        conf.setMaster(master)
    if master is None or master.startswith("local"):
        conf.set("spark.local.dir", str(folder / "local"))
    if memory is not None:
        conf.set("spark.driver.memory", f"{round(float(memory[:-2]) * _MIB[memory[-2:]])}m")
    with tempfile.TemporaryFile() as log, _python_of_this_process():
        try:
            context = _context(conf, log, memory)
        except PySparkException as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            found = next((line for line in lines if "rror" in line or "JAVA" in line), str(error))
            raise FinerankError(
                "engine spark", expected="a Spark that starts", found=found.strip(), fix=_FIX
            ) from error
    context.setLogLevel("ERROR")
    return context


def _context(conf: SparkConf, log: IO[bytes], memory: str | None) -> SparkContext:
    from pyspark import SparkContext  # noqa: PLC0415
    from pyspark.java_gateway import launch_gateway  # noqa: PLC0415

    if SparkContext._gateway is None:  # noqa: SLF001  (no other way to tell)
        gateway = launch_gateway(conf, {"stderr": log})  # type: ignore[no-untyped-call]
        return SparkContext(conf=conf, gateway=gateway)
    if memory is not None:
        raise FinerankError(
            "memory",
            expected="none for a second Spark of one process",
            found=memory,
            fix="Java keeps the memory of the first. Use another process.",
        )
    return SparkContext(conf=conf)


@contextlib.contextmanager
def _python_of_this_process() -> Iterator[None]:
    """Executors run this Python, unless the environment names another."""
    if "PYSPARK_PYTHON" in os.environ:
        yield
        return
    os.environ["PYSPARK_PYTHON"] = sys.executable
    try:
        yield
    finally:
        del os.environ["PYSPARK_PYTHON"]


def _told(message: str) -> FinerankError:
    """What Spark says, in a line; what DuckDB says in one of its tasks, as DuckDB's."""
    if found := _OF_DUCKDB.search(message):
        return unreadable(found[1])
    if "OutOfMemoryError" in message:
        return FinerankError(
            "memory",
            expected="enough for Spark to sort and group the log",
            found="java.lang.OutOfMemoryError",
            fix="Allow more: memory on this machine, spark.executor.memory on a cluster.",
        )
    if missing := re.search(r"No module named '(\w+)'", message):
        return FinerankError(
            "engine spark",
            expected="duckdb and pyarrow in the Python of the executors",
            found=f"no {missing[1]}",
            fix="Name another Python in PYSPARK_PYTHON, or install them there.",
        )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    return FinerankError(
        "engine spark",
        expected="a preparation that Spark can do",
        found=(causes[-1] if causes else " ".join(lines))[:500],
    )
