"""One look through lorebooks: which entries the conversation calls up, and why the others stay out."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from understudy.npc.draw import draw
from understudy.npc.lorebook.candidate import Candidate, Item, lose_by_groups
from understudy.npc.lorebook.entry import Logic, Lorebook, Position
from understudy.npc.lorebook.keys import KeySearch, pattern_problem, regex_of
from understudy.npc.lorebook.outcome import EntryOutcome, LoreScan, Reason
from understudy.npc.lorebook.state import LoreState
from understudy.npc.macros import MacroScope, fill_macros
from understudy.prompt import Message

__all__ = ["ScanSettings", "scan_lorebooks"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """What holds where books and entries do not say otherwise.

    Attributes:
        scan_depth: how many of the last messages are searched for keys.
        budget_tokens: most tokens of all entries together; None: no limit. A quarter of the context is usual.
        is_recursive: entries call up entries.
        case_sensitive: of keys.
        whole_words: a key of one word must stand alone.
        uses_group_scoring: of a group, those with the most keys found are left.
        has_names: each message is searched as "Name: text".
        max_scans: how often entries may call up entries, the first look included.
    """

    scan_depth: int = 2
    budget_tokens: int | None = 1024
    is_recursive: bool = False
    case_sensitive: bool = False
    whole_words: bool = True
    uses_group_scoring: bool = False
    has_names: bool = False
    max_scans: int = 16

    def __post_init__(self) -> None:
        if self.scan_depth < 0 or self.max_scans < 1 or (self.budget_tokens or 0) < 0:
            raise ValueError("scan_depth and budget_tokens are at least 0, max_scans is at least 1.")


def scan_lorebooks(
    books: Sequence[Lorebook],
    history: Sequence[Message],
    state: LoreState | None = None,
    *,
    count: Callable[[str], int],
    char: str,
    user: str,
    seed: int = 0,
    settings: ScanSettings | None = None,
    greeting: int | None = None,
    user_icon: str | None = None,
    is_context_full: bool = False,
) -> LoreScan:
    """Choose the entries that a conversation calls up; a pure function: the same input gives the same outcome.

    Args:
        books: the character's first, then the world's: they stack, and the first takes precedence in the budget.
        history: messages, oldest first, with the player's new line at the end; those of tools and the system, and
            empty ones, do not count.
        state: what the scan of the last turn left.
        count: length of a text, in tokens.
        char: what `{{char}}` becomes.
        user: what `{{user}}` becomes.
        seed: of all draws, with the number of messages.
        settings: what holds where books and entries do not say.
        greeting: number of the greeting that opened the conversation; None: not known.
        user_icon: name of the player's picture; None: not known.
        is_context_full: the conversation no longer fits into the context.
    """
    said = [m for m in history if m.role in ("user", "assistant") and m.content]
    scene = _Scene(
        length=len(said),
        num_answers=sum(m.role == "assistant" for m in said),
        greeting=greeting,
        user_icon=user_icon,
        is_context_full=is_context_full,
        scope=MacroScope(char=char, user=user, seed=seed, turn=len(said)),
    )
    settings = settings or ScanSettings()
    lines = [f"{user if m.role == 'user' else char}: {m.content}" if settings.has_names else m.content for m in said]
    scan = _Scan(list(_items(books)), scene, settings, KeySearch(lines), state or LoreState(), count)
    scan.run()
    return scan.result()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scene:
    length: int
    num_answers: int
    greeting: int | None
    user_icon: str | None
    is_context_full: bool
    scope: MacroScope


def _items(books: Sequence[Lorebook]) -> Iterator[Item]:
    names: set[str] = set()
    for number, book in enumerate(books):
        name = book.name if book.name not in names else f"{book.name}#{number}"
        names.add(name)
        for place, entry in enumerate(book.entries):
            key = f"{name}/{entry.id}"
            yield Item(key=key, number=number, name=name, place=place, book=book, entry=entry)


class _Scan:
    def __init__(
        self,
        items: list[Item],
        scene: _Scene,
        settings: ScanSettings,
        search: KeySearch,
        state: LoreState,
        count: Callable[[str], int],
    ) -> None:
        self.items, self.scene, self.settings, self.search, self.count = items, scene, settings, search, count
        self.state = state.at(scene.length, {item.key: item.entry for item in items})
        self.outcomes: dict[str, EntryOutcome] = {}
        self.kept: dict[str, Item] = {}
        self.failed: set[str] = set()  # by lot or budget: not tried again
        self.spent = 0
        self.spent_by_book: dict[int, int] = {}
        self.is_full = False
        self.full_books: set[int] = set()

    def run(self) -> None:
        levels = sorted({item.entry.recursion_level for item in self.items} - {0})
        level = levels.pop(0) if levels else 0
        called = self._look(0, level)
        for number in range(1, self.settings.max_scans):
            if self.is_full or (not called and (number == 1 or not levels)):
                return
            if not called:
                level = levels.pop(0)
            called = self._look(number, level)

    def result(self) -> LoreScan:
        order = sorted(self.kept.values(), key=lambda item: (item.entry.order, item.number, item.place))
        chosen = tuple(self.outcomes[item.key] for item in order)
        prompts = {item.entry.decorators.disable_ui_prompt for item in order} - {None}
        return LoreScan(
            chosen=chosen,
            outcomes=tuple(self.outcomes[item.key] for item in self.items),
            state=self.state.with_chosen(self.scene.length, {item.key: item.entry for item in order}),
            disabled_prompts=frozenset(filter(None, prompts)),
        )

    def _look(self, number: int, level: int) -> bool:
        """Search once; whether an entry came in that may call up others."""
        found = []
        for item in self.items:
            if item.key in self.kept or item.key in self.failed:
                continue
            candidate = self._consider(item, number, level)
            if candidate.reason.is_kept:
                found.append(candidate)
            elif number == 0 or (candidate.matched_keys and self.outcomes[item.key].reason is not Reason.GROUP):
                self._note(candidate, number)
        found.sort(key=lambda candidate: candidate.rank)
        taken = {group for item in self.kept.values() for group in item.entry.groups}
        lost = lose_by_groups(
            found,
            taken,
            seed=self.scene.scope.seed,
            length=self.scene.length,
            uses_scoring=self.settings.uses_group_scoring,
        )
        new = []
        for candidate in found:
            key = candidate.item.key
            if key in lost:
                self._note(dataclasses.replace(candidate, reason=Reason.GROUP, detail=lost[key]), number)
            elif self._take(candidate, number):
                new.append(candidate.item)
        calling = [item for item in new if not item.entry.prevent_recursion]
        shown = dataclasses.replace(self.scene.scope, shows_hidden=True)
        for item in calling:
            self.search.add(fill_macros(item.entry.content, shown))
        return bool(calling)

    def _take(self, candidate: Candidate, number: int) -> bool:
        """Draw and pay for a candidate; whether it is in."""
        entry, key = candidate.item.entry, candidate.item.key
        roll = None
        if entry.probability < 100 and candidate.reason is not Reason.STICKY:
            roll = 100 * draw(self.scene.scope.seed, "probability", key, self.scene.length)
            if roll >= entry.probability:
                self.failed.add(key)
                detail = f"{entry.probability:g} % probability"
                self._note(dataclasses.replace(candidate, reason=Reason.PROBABILITY, detail=detail), number, roll=roll)
                return False
        text = fill_macros(entry.content, self.scene.scope).strip()
        tokens = self.count(text)
        problem = self._over_budget(candidate.item, tokens)
        if problem:
            self.failed.add(key)
            over = dataclasses.replace(candidate, reason=Reason.BUDGET, detail=problem)
            self._note(over, number, roll=roll, tokens=tokens)
            return False
        self.spent += tokens
        book = candidate.item.number
        self.spent_by_book[book] = self.spent_by_book.get(book, 0) + tokens
        self.kept[key] = candidate.item
        self._note(candidate, number, roll=roll, tokens=tokens, text=text)
        return True

    def _over_budget(self, item: Item, tokens: int) -> str:
        """Why the tokens are too many; nothing more comes in after the first entry that was."""
        budget, own = self.settings.budget_tokens, item.book.token_budget
        spent = self.spent_by_book.get(item.number, 0)
        if self.is_full:
            return "after the budget was used up"
        if item.number in self.full_books:
            return "after the book's budget was used up"
        if budget is not None and self.spent + tokens > budget:
            self.is_full = True
            return f"{tokens} tokens, {budget - self.spent} left of {budget}"
        if own is not None and spent + tokens > own:
            self.full_books.add(item.number)
            return f"{tokens} tokens, {own - spent} left of the book's {own}"
        return ""

    def _note(
        self, candidate: Candidate, number: int, *, roll: float | None = None, tokens: int = 0, text: str = ""
    ) -> None:
        entry = candidate.item.entry
        before = entry.decorators.reverse_depth
        is_reversed = before is not None and entry.decorators.depth is None
        self.outcomes[candidate.item.key] = EntryOutcome(
            book=candidate.item.name,
            entry=entry,
            reason=candidate.reason,
            detail=candidate.detail,
            matched_keys=candidate.matched_keys,
            scan=number,
            roll=roll,
            tokens=tokens,
            text=text,
            position=entry.position,
            depth=max(self.scene.length - before, 0) if is_reversed and before is not None else entry.depth,
        )

    def _consider(self, item: Item, number: int, level: int) -> Candidate:
        """What calls the entry up in this scan, or why nothing does."""
        entry, length = item.entry, self.scene.length
        timer = self.state.timers.get(item.key)
        is_sticky = timer is not None and timer.is_sticky(length)

        def verdict(reason: Reason, detail: str) -> Candidate:
            return Candidate(item=item, reason=reason, detail=detail)

        if not entry.is_enabled:
            return verdict(Reason.DISABLED, "it is disabled")
        if not entry.content.strip():
            return verdict(Reason.EMPTY, "it has no text")
        if entry.position is Position.OUTLET:
            return verdict(Reason.OUTLET, "outlets are not supported; give it another position")
        if length < entry.delay:
            return verdict(Reason.DELAY, f"it waits for {entry.delay} messages, there are {length}")
        if timer is not None and timer.is_cooling(length):
            return verdict(Reason.COOLDOWN, f"it rests for {timer.cooldown_until - length + 1} more messages")
        if not is_sticky and entry.recursion_level and (number == 0 or entry.recursion_level > level):
            return verdict(Reason.RECURSION, "only other entries call it up")
        found = self._decorated(item, is_sticky=is_sticky) or self._by_keys(item)
        is_recursive = self.settings.is_recursive if item.book.is_recursive is None else item.book.is_recursive
        by_words = found.reason in (Reason.KEY, Reason.CONSTANT)  # those that the messages alone did not call up
        if number and by_words and (entry.exclude_recursion or not is_recursive):
            return dataclasses.replace(found, reason=Reason.RECURSION, detail="other entries may not call it up")
        return found

    def _decorated(self, item: Item, *, is_sticky: bool) -> Candidate | None:
        """What stands above the keys."""
        says, scene = item.entry.decorators, self.scene
        was_in = item.key in self.state.first_seen
        every, after = says.activate_only_every, says.activate_only_after
        rules = (
            (says.activate, Reason.ACTIVATE, "@@activate"),
            (says.dont_activate, Reason.DONT_ACTIVATE, "@@dont_activate"),
            (says.dont_activate_after_match and was_in, Reason.ONCE, "it was in before"),
            (says.keep_activate_after_match and was_in, Reason.KEPT_AFTER_MATCH, "it was in before, and stays"),
            (is_sticky, Reason.STICKY, "it stays from before"),
            (
                after is not None and scene.num_answers < after,
                Reason.TOO_EARLY,
                f"not before {after} answers, there are {scene.num_answers}",
            ),
            (
                every is not None and scene.num_answers % every != 0,
                Reason.NOT_THIS_TURN,
                f"every {every} answers, there are {scene.num_answers}",
            ),
            (
                None not in (says.is_greeting, scene.greeting) and says.is_greeting != scene.greeting,
                Reason.GREETING,
                f"only with greeting {says.is_greeting}",
            ),
            (
                None not in (says.is_user_icon, scene.user_icon) and says.is_user_icon != scene.user_icon,
                Reason.USER_ICON,
                f'only with the picture "{says.is_user_icon}"',
            ),
            (
                says.ignore_on_max_context and scene.is_context_full,
                Reason.CONTEXT_FULL,
                "it gives way when the context is full",
            ),
        )
        for applies, reason, detail in rules:
            if applies:
                return Candidate(item=item, reason=reason, detail=detail)
        return None

    def _by_keys(self, item: Item) -> Candidate:
        entry, says = item.entry, item.entry.decorators
        if not entry.uses_regex:
            if excluded := self._found(item, says.exclude_keys):
                return Candidate(item=item, reason=Reason.EXCLUDED_KEY, detail=f"excluded by {_quoted(excluded)}")
            if says.additional_keys and not self._found(item, says.additional_keys):
                detail = f"none of the additional keys {_quoted(says.additional_keys)}"
                return Candidate(item=item, reason=Reason.NO_ADDITIONAL_KEY, detail=detail)
            if entry.is_constant:
                return Candidate(item=item, reason=Reason.CONSTANT, detail="it is constant")
        keys = (*entry.keys, *says.additional_keys) if entry.uses_regex else entry.keys
        matched = self._found(item, keys)
        if not matched:
            problems = [f"{key}: {problem}" for key in keys if (problem := self._problem(item, key))]
            detail = "; ".join(["none of its keys", *problems]) if keys else "it has no keys"
            return Candidate(item=item, reason=Reason.NO_KEY, detail=detail)
        secondary: tuple[str, ...] = ()
        if entry.is_selective and entry.secondary_keys and not entry.uses_regex:
            secondary = self._found(item, entry.secondary_keys)
            if problem := _secondary_problem(entry.logic, entry.secondary_keys, secondary):
                return Candidate(item=item, reason=Reason.SECONDARY_KEY, detail=problem, matched_keys=matched)
        detail = f"key {_quoted(matched)}" + (f" with {_quoted(secondary)}" if secondary else "")
        return Candidate(
            item=item, reason=Reason.KEY, detail=detail, matched_keys=matched, num_secondary=len(secondary)
        )

    def _found(self, item: Item, keys: Sequence[str]) -> tuple[str, ...]:
        """Those of the keys that occur."""
        entry, settings = item.entry, self.settings
        depth = next(
            depth for depth in (entry.scan_depth, item.book.scan_depth, settings.scan_depth) if depth is not None
        )
        return tuple(
            key
            for key in keys
            if self.search.finds(
                self._named(key, item),
                depth=depth,
                is_regex=entry.uses_regex,
                case_sensitive=settings.case_sensitive if entry.case_sensitive is None else entry.case_sensitive,
                whole_words=settings.whole_words if entry.whole_words is None else entry.whole_words,
            )
        )

    def _named(self, key: str, item: Item) -> str:
        """The key with its macros filled; a name in a pattern means itself."""
        if "{{" not in key and "<" not in key:
            return key
        scope = self.scene.scope
        if regex_of(key, is_regex=item.entry.uses_regex) is not None:
            scope = dataclasses.replace(scope, char=re.escape(scope.char), user=re.escape(scope.user))
        return fill_macros(key, scope)

    def _problem(self, item: Item, key: str) -> str:
        return pattern_problem(self._named(key, item), is_regex=item.entry.uses_regex)


def _secondary_problem(logic: Logic, wanted: Sequence[str], found: Sequence[str]) -> str:
    missing = [key for key in wanted if key not in found]
    problems = {
        Logic.AND_ANY: f"none of the secondary keys {_quoted(wanted)}" if not found else "",
        Logic.AND_ALL: f"without the secondary key {_quoted(missing)}" if missing else "",
        Logic.NOT_ANY: f"barred by the secondary key {_quoted(found)}" if found else "",
        Logic.NOT_ALL: f"barred by all secondary keys {_quoted(found)}" if not missing else "",
    }
    return problems[logic]


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
