"""What is counted, for Prometheus; labels hold only names of models and of endpoints we have."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rlhf_forge.serve.jobs import Progress

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One server's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "forge_requests", "Answered requests", ["path", "status"], registry=registry
        )
        self.tokens = Counter(
            "forge_tokens", "Tokens read and generated", ["model", "kind"], registry=registry
        )
        self.shed = Counter(
            "forge_shed", "Requests refused because all places were taken", registry=registry
        )
        self.cancelled = Counter(
            "forge_cancelled", "Answers nobody waited for", ["reason"], registry=registry
        )
        self.failed = Counter("forge_failed", "Answers lost to a fault", registry=registry)
        self.deaths = Counter("forge_worker_deaths", "Times the worker died", registry=registry)
        self.running = Gauge("forge_running", "Answers in slots", registry=registry)
        self.waiting = Gauge("forge_waiting", "Answers without a slot yet", registry=registry)
        self.held = Gauge("forge_cache_tokens", "Tokens in the cache", registry=registry)
        self.ready = Gauge("forge_ready", "1 if answers are taken", registry=registry)
        self.first = Histogram(
            "forge_time_to_first_token_seconds",
            "From a request to its first token",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.between = Histogram(
            "forge_inter_token_seconds",
            "From a token of an answer to its next",
            buckets=SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "forge_request_seconds",
            "From a request to the end of its answer",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )

    def see(self, progress: Progress) -> None:
        """How full the engine is."""
        self.running.set(progress.running)
        self.waiting.set(progress.waiting)
        self.held.set(progress.held)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
