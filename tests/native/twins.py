"""Broken twins of the core: each lacks one line that the ordering argument needs, and the explorer must find it out."""

from __future__ import annotations

from typing import NamedTuple


class Twin(NamedTuple):
    """What stands in the core once, what stands there instead, and the scenario that shows the difference."""

    name: str
    scenario: str
    sound: str
    broken: str


STAND = "    (void)take_position(o, at);\n"
ANNOUNCE = "    (void)or_seq(&o->row, ROW);\n"
WAKE_ALL = "        unpark(round_of(o), INT_MAX);\n"
LAST_READER = "    call_owner(o, load_seq(&o->permit[0]));"
KEEP = "    if (at->held)\n        (void)let_go(o, at, true);\n"
NEWS = "set_mode(at, TOLD, (at->held & LOST) != 0)"
SETTLED = "        call_everybody(o);\n        place_free(at);"
NOTE = "    while (noted < attempt && !cas_seq(&o->handed, &noted, attempt)) {\n    }\n"
FREED = "    (void)cas_seq(&o->permit[0], &permit, permit & ~OWNER);\n"
CALL = "    call_everybody(o); /* whoever was faster may be dead */\n"
OVERDUE = "if (now >= due && "

TWINS = (
    Twin("a release calls nobody", "lock2", "if (load_seq(&o->row)) /* pairs with stand", "if (0) /*"),
    Twin("who stands is announced too early", "lock3", STAND + ANNOUNCE, ANNOUNCE + STAND),
    Twin(
        "the row is not looked at again",
        "lock3",
        "        first = first_of_row(o); /* pairs with stand: who has set ROW before is seen here */\n",
        "",
    ),
    Twin(
        "who sets the flag again does not look again",
        "lock4",
        "        first = first_of_row(o); /* who came free while the flag was clear has called nobody */\n",
        "",
    ),
    Twin("a reader does not look twice", "rwlock", "    if ((permit & mask) == 0) {", "    if (1) {"),
    Twin("a reader that looks is not in the row", "rwlock", "from == WAITS ? LOOKS : READS", "READS"),
    Twin("a reader that leaves wakes no writer", "rwlock", LAST_READER + " /* pairs", " /*"),
    Twin(
        "a reader that steps back wakes no writer", "rwlock", LAST_READER + "\n    return false;", "    return false;"
    ),
    Twin("a writer does not look for readers", "rwlock", "(at->base | IDLE) || somebody_reads(o)", "(at->base | IDLE)"),
    Twin("a block of tokens outlives a writer", "rwlock", "&cell->block, permit / GIVE", "&cell->block, given"),
    Twin("readers leave no token to a writer", "rwlock", "left + 1) + 1 + given", "left) + 1 + given"),
    Twin("no stamp", "sweepers", "(seen & ~OWNER) + GIVE + number", "(seen & ~OWNER) + number"),
    Twin("a dead one's permit is not looked at again", "sweepers", "if (load_seq(&cell->word) != word)", "if (0)"),
    Twin("what an evicted one seizes is kept", "evict", KEEP + "    place_free", "    place_free"),
    Twin("who is due is overtaken", "due", "return !(load_seq(&o->row) & DUE) && take_free", "return take_free"),
    Twin("who is due says so once", "due-again", OVERDUE, OVERDUE + "!at->which++ && "),
    Twin("news is told twice", "crash", NEWS, "if (at->held & LOST)\n        set_mode(at, TOLD, true)"),
    Twin("the death of who waits is news", "crash", "!waits(had) && had != DRAINS && had != RETIRES", "true"),
    Twin("news is dropped by who steps back", "news", "keep ? held & LOST : 0", "0"),
    Twin("an object is retired beside readers", "retire", "idle = idle && !anybody_reads(o) && ", "idle = idle && "),
    Twin("the last party wakes nobody", "barrier", "if (anybody_sleeps(o, mine->round))", "if (0)"),
    Twin("nobody notes that it sleeps", "barrier", "        note_sleeper(o, mine->round);\n", ""),
    Twin(
        "who sends the parties away wakes nobody", "moved", "    " + WAKE_ALL + "            break", "            break"
    ),
    Twin(
        "nobody is watched",
        "crash-late",
        "        cells_watch(o, lives, ~(1u << FREE)",
        "        cells_watch(o, lives, 0u",
    ),
    Twin(
        "a party is not watched", "barrier-crash-late", "cells_watch(o, lives, 1u << MEMBER", "cells_watch(o, lives, 0u"
    ),
    Twin(
        "who is told of a death calls nobody", "crash-late", "if (end == ENDED && !admission_sweep(o, lives))", "if (0)"
    ),
    Twin(
        "who wakes with a result calls nobody",
        "once-crash-late",
        "if ((answer == KEPT || answer == OWED) &&",
        "if (0 &&",
    ),
    Twin(
        "who hands out second calls nobody",
        "once-crash-late",
        "(void)cas_seq(&o->permit[0], &permit, permit & ~OWNER);",
        "if (cas_seq(&o->permit[0], &permit, permit & ~OWNER))",
    ),
    Twin(
        "who wakes in a round that passed calls nobody",
        "barrier-crash-late",
        "if (end == ENDED)\n            unpark",
        "if (0)\n            unpark",
    ),
    Twin("who settles wakes nobody", "once", SETTLED, "        place_free(at);"),
    Twin("what is handed out is not noted", "once-handed", NOTE, ""),
    Twin("what is handed out is noted too late", "once-handed", NOTE + FREED, FREED + NOTE),
    Twin("who hands out wakes nobody", "once-handed", CALL, ""),
    Twin("an old result is owed to who comes", "once-handed", "*attempt + !works", "*attempt"),
    Twin("who is owed stands in the way", "once-owed", "(done && load_relaxed", "(0 && load_relaxed"),
    Twin("a result keeps the news of a death", "once-crash", "~(OWNER | LOST)) | ending", "~OWNER) | ending"),
    Twin("who gives up keeps the news to itself", "once-crash", "held, held & LOST);", "held, 0);"),
    Twin("the dead worker has no name", "once-crash", "if (held && o->kind == KIND_ONCE)", "if (0)"),
    Twin("who has a result calls nobody", "once-forget", "if (stood || worked)", "if (worked)"),
    Twin("who gives up calls nobody", "once-given-up", "if (stood || worked)", "if (0)"),
    Twin(
        "the parties are sent away blindly",
        "moved",
        "if (cas_seq(&o->permit[0], &word, AT(ROUND(word)))) {",
        "if (store_seq(&o->permit[0], AT(ROUND(word))), true) {",
    ),
)
