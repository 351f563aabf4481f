"""Kinds of machines for a model: what each sustains, how many serve a load, and what that costs."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from octavo.errors import ConfigError

SECONDS_AN_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Prices:
    """Of devices, for an hour, in whatever money."""

    by_device: dict[str, float]

    @classmethod
    def read(cls, given: Sequence[str], known: Collection[str]) -> "Prices":
        """From `name=price`.

        Raises:
            ConfigError: one is none, or of a device that is not among those known.
        """
        prices: dict[str, float] = {}
        for text in given:
            name, _, price = text.partition("=")
            try:
                prices[name] = float(price)
            except ValueError:
                raise ConfigError(f"--price {text}: it is a device's name and a price for an hour: h100=2.5") from None
            if name not in known or not 0 <= prices[name] < math.inf:
                raise ConfigError(f"--price {text}: it is of one of {', '.join(known)}, and not below 0")
        return cls(prices)


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of machine: so many devices that hold the model together."""

    device: str
    num_devices: int
    num_slots: int
    rate: float
    """Requests a second that one such machine sustains."""
    replicas: int | None
    """Machines that serve the load, where there is one."""
    price_hour: float | None
    """Of all of them; of one machine where there is no load."""
    price_1000: float | None
    """Of a thousand requests, at the load, or else at what the machine sustains."""

    @classmethod
    def of(
        cls, device: str, num_devices: int, num_slots: int, rate: float, load: float | None, prices: Prices
    ) -> "Option":
        """What follows from the rate that a machine sustains.

        Args:
            load: requests a second to serve.
        """
        replicas = None if load is None else math.ceil(load / rate)
        price = prices.by_device.get(device)
        hour = None if price is None else price * num_devices * (replicas or 1)
        thousand = None if hour is None else hour / SECONDS_AN_HOUR * 1000 / (rate if load is None else load)
        return cls(
            device=device,
            num_devices=num_devices,
            num_slots=num_slots,
            rate=rate,
            replicas=replicas,
            price_hour=hour,
            price_1000=thousand,
        )

    @property
    def name(self) -> str:
        return f"{self.num_devices} x {self.device}"

    @property
    def rate_a_device(self) -> float:
        """Requests a second."""
        return self.rate / self.num_devices

    @property
    def order(self) -> tuple[float, float]:
        """The cheapest first; those without a price behind them, by what a device sustains."""
        return (math.inf if self.price_1000 is None else self.price_1000, -self.rate_a_device)
