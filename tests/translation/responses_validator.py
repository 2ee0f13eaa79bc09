"""A Responses stream as its documentation describes it, written without looking at the writer."""

from __future__ import annotations

from tests.translation.validator import frames, must

TEXT = {"message": "output_text", "reasoning": "reasoning_text"}
ENDS = {"response.completed", "response.incomplete", "response.failed"}


class Items:
    """Gathers the output from added, deltas and done, and holds the three against each other."""

    def __init__(self):
        self.output = []
        self.open = None
        self.part = None
        self.gathered = ""
        self.ids = set()

    def added(self, event):
        must(self.open is None, "an item begins inside an item")
        must(event["output_index"] == len(self.output), "indices are not consecutive")
        must(event["item"]["id"] not in self.ids, "an id comes twice")
        must(event["item"].get("status", "in_progress") == "in_progress", "an item begins finished")
        self.ids.add(event["item"]["id"])
        self.open, self.part, self.gathered = event["item"], None, ""

    def inside(self, event):
        must(self.open is not None, "an event outside of its item")
        must(event["item_id"] == self.open["id"], "an event of another item")
        must(event["output_index"] == len(self.output), "an event with another index")

    def part_added(self, event):
        self.inside(event)
        must(self.part is None and event["content_index"] == 0, "a second part")
        must(event["part"]["type"] == TEXT[self.open["type"]] and not event["part"]["text"], "odd part")
        self.part = event["part"]

    def delta(self, event, kind):
        self.inside(event)
        must((self.open["type"], self.part is not None) == kind, "a delta of another kind")
        self.gathered += event["delta"]

    def text_done(self, event):
        self.inside(event)
        must(event["text"] == self.gathered, "the text is not its deltas")

    def arguments_done(self, event):
        self.inside(event)
        must(event["arguments"] == self.gathered, "the arguments are not their deltas")

    def part_done(self, event):
        self.inside(event)
        must(event["part"] == self.part | {"text": self.gathered}, "the part is not its deltas")
        self.part = event["part"]

    def done(self, event):
        must(self.open is not None and event["output_index"] == len(self.output), "the end of no item")
        item = event["item"]
        must((item["id"], item["type"]) == (self.open["id"], self.open["type"]), "another item ends")
        if item["type"] == "function_call":
            must(item["arguments"] == self.gathered, "the call is not its deltas")
        else:
            must(item["content"] == ([self.part] if self.part else []), "the item is not its parts")
        self.output.append(item)
        self.open = None


def gather(data):
    """The response in the last event, once every event before it has been held against it."""
    items, created, last = Items(), None, None
    steps = {
        "response.output_item.added": items.added,
        "response.content_part.added": items.part_added,
        "response.output_text.delta": lambda event: items.delta(event, ("message", True)),
        "response.reasoning_text.delta": lambda event: items.delta(event, ("reasoning", True)),
        "response.function_call_arguments.delta": lambda event: items.delta(event, ("function_call", False)),
        "response.output_text.done": items.text_done,
        "response.reasoning_text.done": items.text_done,
        "response.function_call_arguments.done": items.arguments_done,
        "response.content_part.done": items.part_done,
        "response.output_item.done": items.done,
    }
    for number, event in enumerate(frames(data)):
        must(event["sequence_number"] == number, "sequence numbers are not consecutive")
        must(last not in ENDS, "something follows the end")
        last = event["type"]
        must((last == "response.created") == (number == 0), "created is not the first, or comes again")
        must((last == "response.in_progress") == (number == 1), "in_progress is not the second")
        if last in steps:
            steps[last](event)
            continue
        must(last in ENDS | {"response.created", "response.in_progress"}, f"odd event {last}")
        created = created or event["response"]["id"]
        must(event["response"]["id"] == created, "the response changes its id")
        must(last not in ENDS or event["response"]["output"] == items.output, "the output is not its items")
    must(last in ENDS, "the stream has no end")
    must(last == "response.failed" or items.open is None, "the response ends inside an item")
    must(event["response"]["status"] == last.removeprefix("response."), "another status")
    return event["response"]
