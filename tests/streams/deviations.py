"""Why a stream differs between ring3 and QEMU, or between ring3's engines, without being wrong.

The reasons stand in docs/testing.md, "Streams", with the manual's sections. `excuse` is for QEMU, `undefined_flags` for engines.
"""

import re


class Listing(dict):
    """EIP -> text of an instruction, as it was made; `code`: EIP -> its bytes."""

    def __init__(self):
        super().__init__()
        self.code = {}


def events_of(text):
    events = []
    for line in text:
        if line.startswith("event "):
            words = line.split()[1:]
            events.append({words[i]: int(words[i + 1], 16) for i in range(0, len(words), 2)})
    return events


KERNEL = (0x100000, 0x400000)  # where it lies: its stack shows how often a stream was run (layout.h)
STATUS_FLAGS = 0x8D5
REGISTERS = ("eax", "ecx", "edx", "ebx", "esi", "edi")
REPEAT_FLAGS = re.compile(r"rep\w* (scas|cmps)")
READS_FLAGS = re.compile(r"\b(set\w+|rc[lr]|adc|sbb|cmov\w+|pushf\w*|lahf|cmpxchg)\b")
ROTATES = re.compile(r"\brc[lr]\b")
UNDEFINED_FLAGS = re.compile(r"\b(bs[fr]|bt[crs]?|sh[lr]d?|sa[lr]|ro[lr]|rc[lr]|i?mul|i?div|aa[adms]|da[as]|and|or|xor|test)\b")
SEVERAL_ACCESSES = re.compile(r"\b(cmps\w|movs[bwd]|pusha\w*|popa\w*|push|pop|call|enter|leave|ret\w*|iret\w*|bound|l[defgs]s|int\w?|jmp)\b")
FAR = re.compile(r"\b(call far|jmp far|ret far|iret\w*|int\w?|into|call|jmp)\b")
MEMORY = re.compile(r"\[|\b(ins|outs|movs|stos|lods|scas|cmps)[bwd]\b")


def first_difference_of(a, b):
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    return common


def before(listing, eip):
    """The instruction that stands before the one at `eip`."""
    return listing.get(max((at for at in listing if at < eip), default=None), "")


def undefined_flags(ours, theirs, listing):
    """Instructions met by accident (data, the middle of others) leave undefined flags that no other instruction defines."""
    a, b = events_of(ours), events_of(theirs)
    if any(KERNEL[0] <= e["eip"] < KERNEL[1] for e in [*a, *b]):
        return "runs through its own kernel"
    common = first_difference_of(a, b)
    if common == len(a) == len(b):
        # The CPU has TOP at 0 when an MMX store faults, and so has translated code; the interpreter leaves it. The restart sets it anyway.
        only_fpu = all(x == y or x.startswith(("fpu", "stream")) for x, y in zip(ours, theirs))
        if only_fpu and any(e["vector"] == 14 and MMX_STORE.search(listing.get(e["eip"], "")) for e in a):
            return "TOP after faults of MMX stores"
    if common >= min(len(a), len(b)):
        return None
    x, y = a[common], b[common]
    if {key for key in x if x[key] != y[key]} == {"eflags"} and (x["eflags"] ^ y["eflags"]) & ~STATUS_FLAGS == 0:
        if x["vector"] == 1 or x["eip"] not in listing or UNDEFINED_FLAGS.search(before(listing, x["eip"])):
            return "undefined flags of instructions met by accident"
    return None


MMX_STORE = re.compile(r"(movq|movd|movntq) .*\[.*\], mm")


def code_at(ours, eip):
    """The bytes at an EIP in the pages that the stream was made with, as they are at its end."""
    start = [line.split() for line in ours if re.match(r"code [0-9a-f]{8} ", line)]  # not the report of a run that ended
    if not start:
        return b""
    first_eip, code_start = (int(word, 16) for word in start[0][1:3])
    arena = {int(line.split()[1], 16): int(line.split()[2], 16) for line in ours if line.startswith("arena ")}
    code = bytearray()
    for i in range(12):
        at = code_start + (eip - first_eip & 0xFFFFFFFF) + i & 0xFFFFFFFF
        if not 0x1000 <= at < 0x3000:
            break
        code.append(arena.get(at & ~3, 0xCCCCCCCC) >> 8 * (at & 3) & 0xFF)
    return bytes(code)


def is_data(ours, a, b):
    """Whether both runs stopped outside of the code pages: what runs there was never meant to be code."""
    return not code_at(ours, a) and not code_at(ours, b)


def text_at(ours, listing, eip):
    """The instruction at an EIP, if it is one that was made and is still what it was."""
    code = listing.code.get(eip, b"")
    return listing.get(eip, "") if code_at(ours, eip).startswith(code) else ""


def changed_instructions(ours, listing):
    """EIPs of instructions that are not at the end what they were made as."""
    return [eip for eip, code in listing.code.items() if not code_at(ours, eip).startswith(code)]


def prefixes(code):
    """How many."""
    at = 0
    while at < len(code) and code[at] in b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3":
        at += 1
    return at


def makes_several_accesses(code):
    """SEVERAL_ACCESSES for an instruction that was not made as such."""
    rest = code[prefixes(code) :]
    return bool(rest) and (0x50 <= rest[0] <= 0x62 or rest[0] in b"\x9a\xa4\xa5\xa6\xa7\xc2\xc3\xc4\xc5\xc8\xc9\xca\xcb\xcc\xcd\xcf\xe8\xff")


def met_by_accident(code):
    """Instructions that QEMU does not do as the manual says; where it judges, they come only out of the middle of others."""
    at = prefixes(code)
    if at < len(code) and 0xF0 in code[:at]:
        return True  # LOCK, which QEMU takes before instructions that have no locked form
    rest = code[at:] + bytes(3)
    if rest[0] in (0xF6, 0xF7) and rest[1] >> 3 & 7 == 1:
        return True  # TEST, second form
    if 0xD8 <= rest[0] <= 0xDF or rest[0] in (0x9B, 0xF1, 0xE4, 0xE5, 0xEC, 0xED, 0x6C, 0x6D, 0xF4):
        return True  # x87, INT1, ports
    if rest[0] in (0xC6, 0xC7, 0x8F) and rest[1] & 0x38:
        return True  # MOV and POP with an undefined ModRM
    if rest[:2] == b"\x0f\xc3" and code[:at].translate(None, b"\x26\x2e\x36\x3e\x64\x65\x67"):
        return True  # MOVNTI with a prefix that makes it undefined
    if rest[:2] == b"\x0f\xba" and rest[2] >> 3 & 7 < 4:
        return True  # undefined, but it reads the operand first
    if (rest[0] == 0xFF and rest[1] >> 3 & 7 == 7) or (rest[0] == 0xFE and rest[1] >> 3 & 7 > 1):
        return True  # undefined ones, whose operand it reads first
    if rest[0] == 0xC8:
        return True  # ENTER, which tries to write at the new top of the stack
    if rest[0] == 0x0F and (rest[1] in (0xC7, 0xAE, 0x77, 0x0D, 0x31, 0xA2, 0x05, 0x07) or 0x60 <= rest[1] <= 0x7F or 0xD0 <= rest[1]):
        return True  # CMPXCHG8B, CLFLUSH, MMX, RDTSC, CPUID, SYSCALL
    return False


def words_of(text):
    """What a stream changed in memory: {address: word}."""
    return {line.split()[1]: int(line.split()[2], 16) for line in text if line.startswith("arena ")}


def known_word(at, ours, theirs, listing):
    """Why a word of memory differs, or None. Words that did not change are None."""
    if ours is None or theirs is None:
        a, b = ours, theirs
        ports = (a is None or b"\xff" in a.to_bytes(4, "little")) and (b is None or b"\0" in b.to_bytes(4, "little"))
        return "ports where nothing answers" if ports else None
    apart = ours ^ theirs
    stack = int(at, 16) >> 12 == 6
    if apart == apart & ours and all(byte in (0, 0xFF) for byte in apart.to_bytes(4, "little")):
        return "ports where nothing answers"
    if stack and theirs & apart == 0 and any(apart & ~(0xFFFF << shift) == 0 for shift in (0, 8, 16)):
        return "upper half of a pushed selector"
    if stack and apart == 0x10000:
        return "pushes EFLAGS without RF"
    if stack and (apart < 4 or (apart & 0xFFFF == 0 and apart >> 16 < 4)) and any("call" in text for text in listing.values()):
        return "CALL through a gate to conforming code changes CPL"  # as CS was pushed
    return None


def known_memory(ours, theirs, listing):
    """Why memory alone differs, if each word of it is known, and they are few; or None."""
    a, b = words_of(ours), words_of(theirs)
    reasons = [known_word(at, a.get(at), b.get(at), listing) for at in {*a} | {*b} if a.get(at) != b.get(at)]
    return max(reasons) if 0 < len(reasons) <= 8 and all(reasons) else None


def is_write_fault(event):
    return event["vector"] == 14 and event["error"] & 2


def is_refused_by_cr(event, text):
    """QEMU takes them."""
    return event["vector"] == 13 and text.startswith("mov cr")


def event_excuse(x, y, ours, listing):
    """Why these two events differ in fields on which nothing that follows depends, or None. What does depend on them differs again."""
    here = text_at(ours, listing, x["eip"])
    different = {key for key in x if x[key] != y[key]}
    only_status_flags = different == {"eflags"} and (x["eflags"] ^ y["eflags"]) & ~STATUS_FLAGS == 0
    if only_status_flags and x["vector"] == 14:  # a stream goes on behind a fault with flags of its own
        if REPEAT_FLAGS.search(here):
            return "flags at a fault of REP CMPS and SCAS"
        if READS_FLAGS.search(here):
            return "flags at a fault of an instruction that reads flags"
        if any(ROTATES.search(listing[at]) for at in sorted(at for at in listing if at < x["eip"])[-3:]):
            return "flags at a fault behind RCL and RCR"
    if only_status_flags and UNDEFINED_FLAGS.search(before(listing, x["eip"])):
        return "undefined flags seen before they are defined"
    if x["vector"] == y["vector"] == 1 and different == {"eax"} and before(listing, x["eip"]).startswith("in "):
        return "ports where nothing answers"
    if x["vector"] == y["vector"] == 14 and different <= {"cr2", "error"}:
        if SEVERAL_ACCESSES.search(here) or (not here and makes_several_accesses(code_at(ours, x["eip"]))):
            return "order of an instruction's accesses"
    if x["vector"] == 11 and y["vector"] == 13 and different == {"vector"} and "jmp" in here:
        return "JMP through a call gate to an absent segment"
    if x["vector"] == 6 and y["vector"] == 7 and different == {"vector"}:
        return "EM before TS"
    if x["vector"] in (12, 13) and x["error"] == 0 and y["vector"] == 14 and different <= {"vector", "error", "cr2"}:
        return "segment limits and types, alignment of SSE operands, absent page"
    if x["vector"] == 14 and y["vector"] == 13 and x["eip"] == y["eip"] and 0 < x["cr2"] - x["eip"] < 15 and x["cr2"] % 4096 == 0:
        return "rights are checked before the whole instruction is fetched"
    return None


def only_marks_differ(ours, theirs):
    """Whether all that differs behind the events is accessed and dirty flags of page-table entries."""
    if len(ours) != len(theirs):
        return False
    pairs = [(x, y) for x, y in zip(ours, theirs) if x != y and not x.startswith(("stream", "event"))]
    return all(x.startswith("arena") and y.startswith(x[:15]) and 0x8000 <= int(x.split()[1], 16) < 0xC000
               and (int(x.split()[2], 16) ^ int(y.split()[2], 16)) & ~0x60 == 0 for x, y in pairs)


def excuse(ours, theirs, listing):
    """Why a difference is QEMU's deviation from the manual, or None; and whether all but the named fields of some events was compared and
    is equal. The reasons stand in docs/testing.md, "Streams"."""
    a, b = events_of(ours), events_of(theirs)
    raw_a, raw_b = [dict(e) for e in a], [dict(e) for e in b]
    reasons = []
    for x, y in zip(a, b):
        for e in (x, y):
            e["eflags"] &= ~0x10000
            if e["vector"] == 14:
                e["error"] &= ~2
        if x["vector"] == y["vector"] and x["vector"] in (10, 11, 13) and x["error"] ^ y["error"] == 1:
            reasons.append("EXT in error codes")
            y["error"] = x["error"]
        reason = event_excuse(x, y, ours, listing) if x != y else None
        if reason:
            reasons.append(reason)
            y.update(x)
    common = first_difference_of(a, b)
    if common == len(a) == len(b):
        return rest_excuse(ours, theirs, raw_a, reasons, listing)
    if common >= min(len(a), len(b)):
        return end_excuse(ours, theirs, raw_a, listing), False
    x, y = a[common], b[common]
    here, there = (text_at(ours, listing, e["eip"]) for e in (x, y))
    return course_excuse(x, y, raw_a[common], raw_b[common], here, there, ours, listing), False


def rest_excuse(ours, theirs, events, reasons, listing):
    """As `excuse`, where all events agree but for fields that `reasons` explain."""
    pairs = [(x, y) for x, y in zip(ours, theirs) if x != y and not x.startswith(("stream", "event"))]
    if not pairs:
        return (reasons[0], True) if reasons else ("same when run alone", False)
    if len(pairs) == 1 and pairs[0][0][:5] == pairs[0][1][:5] == "misc " and pairs[0][0][13:] == pairs[0][1][13:]:
        return "reserved bits of CR0", True
    if any(x.startswith("fpu") for x, _ in pairs):
        return "x87 or MMX met by accident", False
    apart = {line for line in {*ours} ^ {*theirs} if not line.startswith(("stream", "event"))}
    few_words = len(apart) <= 16 and all(line.startswith("arena") for line in apart)
    if few_words and "order of an instruction's accesses" in reasons:
        return "order of an instruction's accesses", True  # what one did before its fault
    if memory_reason := known_memory(ours, theirs, listing):
        return memory_reason, True
    unfinished = [e for e in events if is_write_fault(e) and makes_several_accesses(code_at(ours, e["eip"]))]
    if few_words and unfinished and all(line.startswith("arena 00006") for line in apart):
        return "order of an instruction's accesses", True
    if only_marks_differ(ours, theirs):
        return "accessed and dirty flags of accesses that fault", True
    astray = any(e["eip"] not in listing and not code_at(ours, e["eip"]) for e in events)
    return ("data that runs as code" if few_words and astray else None), False


def end_excuse(ours, theirs, events, listing):
    """Why QEMU's run ended before ours, or the other way round: QEMU's deviation, or None."""
    odd = [*changed_instructions(ours, listing), *(e["eip"] for e in events)]
    if any(met_by_accident(code_at(ours, eip)) for eip in odd):
        return "instructions met by accident"
    if theirs[1:]:
        return None
    # The machine ended, and what led there is not known.
    if any(is_refused_by_cr(e, text_at(ours, listing, e["eip"])) for e in events):
        return "values that MOV CR refuses"
    if any(4096 < e["esp"] - e["cr2"] < 0x10100 for e in events if is_write_fault(e)):
        return "instructions met by accident"  # ENTER
    astray = [e for e in events if e["eip"] not in listing]
    by_debug_exit = re.match(r"status \d*[13579]$", theirs[0])
    if by_debug_exit and astray or any(is_write_fault(e) and not code_at(ours, e["eip"]) for e in astray):
        return "data that runs as code"
    return None


def course_excuse(x, y, raw_x, raw_y, here, there, ours, listing):
    """Why two runs part at these events: QEMU's deviation, or None."""
    different = {key for key in x if x[key] != y[key]}
    only_status_flags = different == {"eflags"} and (x["eflags"] ^ y["eflags"]) & ~STATUS_FLAGS == 0
    if 1 in (x["vector"], y["vector"]) and before(listing, x["eip"]).split()[0:1] in (["sti"], ["pause"], ["lss"]):
        return "single step behind STI, PAUSE and LSS"
    undefined = y["vector"] == 6 or (y["vector"] in (11, 13) and y["error"] & ~1 == 0x32)  # or its gate is absent
    if undefined and "nop" in there and (x["vector"] != y["vector"] or x["eip"] != y["eip"]):
        return "reserved NOPs"
    if only_status_flags and x["vector"] == 1:
        return "single step behind undefined flags"
    changed = changed_instructions(ours, listing)
    near = sorted(at for at in listing if at < x["eip"])[-5:]
    if only_status_flags and (not here or {*near} & {*changed}):
        return "undefined flags of instructions met by accident"
    if {*near} & {*changed} and any(UNDEFINED_FLAGS.search(listing[at]) for at in near) and any(READS_FLAGS.search(listing[at]) for at in near):
        if different <= {"eflags", *REGISTERS} and (x["eflags"] ^ y["eflags"]) & ~STATUS_FLAGS == 0:
            return "undefined flags of instructions met by accident"
    if different == {"eax"} and y["eax"] == x["eax"] & y["eax"] and any(text.startswith("in ") for text in listing.values()):
        if (x["eax"] ^ y["eax"]) in (0xFF, 0xFFFF, 0xFFFFFFFF):
            return "ports where nothing answers"
    if is_refused_by_cr(x, here) and y["eip"] != x["eip"]:
        return "values that MOV CR refuses"
    if x["vector"] == 13 and here in ("rdmsr", "wrmsr", "rdpmc"):
        return "MSRs that do not exist"
    if x["eip"] < 0x10000 <= y["eip"]:
        return "jumps of 16-bit code"
    if x["vector"] == y["vector"] == 14 and different <= {"cr2", "error"} and raw_x["error"] & 2 and not raw_y["error"] & 2:
        return "read-modify-write faults as a read"
    if x["vector"] == 14 and FAR.search(here) and y["eip"] != x["eip"]:
        return "far transfers use the stack with supervisor rights"
    if "cs" in different and (x["cs"] ^ y["cs"]) & 0xFFFC == 0:
        return "CALL through a gate to conforming code changes CPL"
    if x["esp"] - y["esp"] & 0xFFFFFFFF == 0x10000:
        return "RET imm16 from 8000h"
    if x["vector"] in (12, 13) and x["error"] == 0 and (x["eip"] != y["eip"] or y["vector"] not in (12, 13)):
        if MEMORY.search(here) or SEVERAL_ACCESSES.search(here) or not here:
            return "segment limits and types, alignment of SSE operands"
    if before(listing, x["eip"]).startswith(("lar", "setz")) and x["eip"] == y["eip"] and different <= {"eax", "edx", "cr2", "error"}:
        return "LAR"
    if any(met_by_accident(code_at(ours, eip)) for eip in (x["eip"], y["eip"], *changed)) or (x["vector"] == 6 and x["eip"] in changed):
        return "instructions met by accident"
    if changed and different == {"edx"} and any(text.startswith("xadd") for text in listing.values()):
        return "XADD that changes the code around it"
    if any(0 <= e["eip"] - at <= 32 for e in (x, y) for at in changed):
        return "instructions met by accident"
    if is_data(ours, x["eip"], y["eip"]):
        return "data that runs as code"
    return None
