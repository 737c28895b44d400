# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which pending frame is the partner of the oldest anchor, or why nobody can know that yet.

The pairing is the stable one: no two frames of it would both have been nearer to each other. It
needs no look at the whole trace: an anchor disputes a frame with the next anchor only, which may
itself prefer a later frame, which is disputed at smaller distances still.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from rgbx_seg_ros.sync_stream import FAR, Stream

NONE, WAIT = -1, -2
SURE = 0.4  # of the one period known: near enough while the other is not
AHEAD_NS = 1_000_000_000  # of the other stream, a lap or more included: it may have jumped
GAIN = 0.99  # a partner expected this little nearer is not waited for


def choose(anchors: Stream, others: Stream, max_skew: int, max_wait: int,
           now: int | None) -> tuple[int, int | None]:
    """Return the index of the oldest anchor's partner, NONE or WAIT, and until when to wait.

    Of two equally near frames the older one is taken. `now` None: nothing more will arrive.
    """
    best = _best(anchors, others, max_skew, now is None)
    if best == NONE and now is not None and others.newest - anchors.stamps[0] > AHEAD_NS:
        best = WAIT  # by one stamp of nonsense, perhaps: then the others are back at once
    if best != WAIT:
        return best, None
    if not others.stamps:
        return WAIT, None
    deadline = _deadline(anchors, others, max_skew, max_wait)
    if now is None or deadline is None or now < deadline:
        return WAIT, deadline
    return _best(anchors, others, max_skew, True), None


def _best(anchors: Stream, others: Stream, max_skew: int, forced: bool) -> int:
    """Return the index of the partner, NONE, or, unless forced to decide, WAIT."""
    stamps = others.stamps
    anchor = anchors.stamps[0]
    if not stamps:
        return NONE if forced or others.newest > anchor + others.disorder + max_skew else WAIT
    reach = anchors.reach if anchors.reach > others.reach else others.reach
    limit = reach if reach < max_skew else max_skew
    at = bisect_right(stamps, anchor)
    before = anchor - stamps[at - 1] if at else FAR
    if not before:
        return at - 1
    after = stamps[at] - anchor if at < len(stamps) else FAR
    orderly = not (anchors.disorder or others.disorder)
    if not (forced or (orderly and others.newest >= anchor)
            or _complete(anchors, others, before, after, limit)):
        return WAIT
    later = after < before and after <= limit
    if later:
        wins = _wins(anchors, others, at, forced)
        if wins is None:
            return WAIT
        later = wins
    distance = after if later else before
    if distance > limit:
        return NONE
    if not (forced or (anchors.soonest and others.soonest)) and (
            distance > SURE * max(anchors.period, others.period)):
        return WAIT
    return at if later else at - 1


def _deadline(anchors: Stream, others: Stream, max_skew: int, max_wait: int) -> int | None:
    """Return when the oldest anchor must be decided: a pair it may form or block has waited then.

    Without such a pair there is none; an anchor alone waits as long as the queue has room.
    """
    first = bisect_left(others.stamps, anchors.stamps[0] - max_skew)
    if first == len(others.since):
        return None
    return max(anchors.since[0], others.since[first]) + max_wait


def _complete(anchors: Stream, others: Stream, before: int, after: int, limit: int) -> bool:
    """Tell whether no frame is to come that would be nearer to the oldest anchor.

    Others are behind and ahead of it at these distances. What is missing keeps a period's distance
    from them, and comes in order or with the disorder that was seen.
    """
    anchor = anchors.stamps[0]
    if anchors.disorder and anchors.newest <= anchor + anchors.disorder and (
            not anchors.soonest or anchor - anchors.decided > 1.5 * anchors.soonest):
        return False  # an older anchor may come
    if others.newest >= anchor and (not others.disorder or others.newest
                                    > anchor + others.disorder + min(before, after, limit)):
        return True
    if not others.soonest:
        return False
    if before <= after:
        return before <= limit and (others.soonest - before >= GAIN * before
                                    or before + after < 2 * others.soonest)
    return after <= limit and (others.soonest - after >= GAIN * after
                               or before + after < 2 * others.soonest)


def _wins(anchors: Stream, others: Stream, right: int, forced: bool) -> bool | None:
    """Tell whether the oldest anchor gets the next later frame; None: not known yet.

    The one who may take it away is the next anchor if that is nearer, unless this gets its own
    next later frame, which is the same question again, one frame on and at a smaller distance.
    """
    for index, rival in enumerate(anchors.stamps):
        if not index:
            anchor = rival
            continue
        partner = others.stamps[right]
        if rival <= partner:
            return False
        near = rival - partner
        if near >= partner - anchor:
            return True
        right += 1
        if right == len(others.stamps):
            expected = others.newest + others.soonest - rival
            return False if forced or (others.soonest and expected >= GAIN * near) else None
        if others.stamps[right] <= rival:
            return True
        if others.stamps[right] - rival >= near:
            return False
        anchor = rival
    partner = others.stamps[right]
    expected = anchors.newest + (anchors.soonest or others.soonest) - partner
    return True if forced or expected >= GAIN * (partner - anchor) else None
