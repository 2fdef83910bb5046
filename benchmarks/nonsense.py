"""Texts that mean nothing to a model of the spine, and the captions of training; used by query_quality.py."""

from data_prep.sites import SITES, Severity
from prompts.render import caption

#: Forty texts: words that do not exist, words out of place, letters, and things that no image of a spine shows.
NONSENSE = (
    *("blorf wimbly tandoo", "qwertz flubber xylophon", "zzzz", "asdf jkl", "frumious bandersnatch"),
    *("slithy toves gyre", "vorpal snark", "glimpf", "mumblecore zebra", "lorem ipsum dolor"),
    *("purple elephants dancing", "a slice of pizza", "the weather in Lisbon", "cheap flights to Mars"),
    *("my grandmother's bicycle", "quantum toaster", "the offside rule", "banana republic", "seventeen umbrellas"),
    *("jazz saxophone solo", "how to knit a scarf", "stock market crash", "penguins on a beach", "two cats in a sink"),
    *("the mayor of Casterbridge", "parking ticket", "wet paint", "chess opening", "violin concerto", "tax return"),
    *("yellow submarine", "snow on a mountain", "broken keyboard", "moonlight over a harbour", "a bag of marbles"),
    *("hgfdsa poiuy", "wibble wobble", "snorkel parade", "ghost train ticket", "marmalade engine"),
)
CAPTIONS = tuple(caption(site, severity) for site in SITES for severity in Severity)
