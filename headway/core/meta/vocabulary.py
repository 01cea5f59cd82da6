"""The vocabulary of `core.meta`: which words give a key its role. English first, then the other
languages.

A table to read and extend. Accents are removed before the look-up, plurals are not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PERCENT = _words(
    "percent percentage pct perc percents percentual porcentaje porcentagem percentagem "
    "percentuale pourcentage pourcent prozent процент 百分比"
)
FRACTION = _words("fraction frac ratio")
PROGRESS = _words(
    "progress progression completion prog progreso progresso avance avancement avanzamento "
    "fortschritt voortgang postep прогресс 进度 進捗 진행률"
)
OVERALL = _words(
    "overall total global whole full current process job task my the value in complete completed "
    "done"
)
TOTAL = _words(
    "total totals max maximum all of expected goal gesamt insgesamt totale totaal всего 总数"
)
#: How many there are, with or without a noun.
EXTENT = _words("count size length len num number n nb no nr anzahl")
#: The position of a loop.
INDEX = _words("index i idx pos position n count value")
#: After a noun ("page_no") an index, before it ("num_pages") an extent.
ORDINAL = _words("num number no nr")
DONE = _words(
    "done complete completed processed finished handled sent read written built run ran seen "
    "loaded fait faits faites traite traites termine termines hecho hechos procesado procesados "
    "procesadas completado completados concluido concluidos processados processadas feito feitos "
    "erledigt verarbeitet bearbeitet fertig elaborati completati gedaan"
)
CURRENT = _words("current cur curr now actual actuel aktuell atual corrente attuale huidig")
CORE = CURRENT | _words(
    "done complete completed processed finished traites procesados processados erledigt"
)
LEFT = _words(
    "remaining left pending todo outstanding restant restants restantes restante verbleibend "
    "rimanenti"
)
SUCCESS_WORDS = _words(
    "success successes successful successfull succeeded ok passed created updated inserted added "
    "changed matched unchanged"
)
FAILURE_WORDS = _words(
    "fail failed failure failures error errors err skip skipped skips warning warnings invalid "
    "rejected missing ignored"
)
UNITS = _words(
    "step stage phase task page epoch batch chunk file row item record iteration iter part frame "
    "segment line image document doc question video section pass round level block shard tile "
    "sample email object job url clip word etape schritt paso etapa"
)
#: Participles that don't mean finished work. All others ("crawled", "indexed", "hashed") do.
NOT_DONE = _words(
    "scheduled queued started estimated required expected needed limited speed seed feed embed "
    "elapsed detected excluded retried cancelled canceled updated created reported need shared "
    "unused used allowed enabled disabled named fixed paused planned blocked locked selected "
    "requested reserved"
)
#: A key with one of these words holds no progress.
NO_NUMBER = _words(
    "id uuid guid pid ppid port code http version build time times timestamp date datetime ts ms "
    "sec secs second seconds minute minutes hour hours day days month year duration elapsed eta "
    "speed rate fps bitrate retry retries attempt attempts timeout interval delay priority seed "
    "score loss accuracy price cost amount lat lon lng latitude longitude width height rank "
    "worker workers thread threads cpu memory mem ram disk gpu swap battery temperature queue "
    "threshold confidence similarity quality discount tax compression learning usage limit "
    "results tokens token status state kb mb gb user account order at exit last"
)
#: A key with one of these words holds no text for people.
NO_TEXT = _words(
    "id ids uuid key keys code url uri link path type level at date time timestamp eta speed "
    "version hash token color icon lang locale class traceback tb module email user units unit "
    "queue percent pct host params args kwargs"
)
MESSAGE = _words(
    "message msg text description desc detail details caption label note comment mensaje mensagem "
    "nachricht meldung messaggio bericht beschreibung descripcion descricao descrizione texto "
    "texte сообщение 消息 メッセージ"
)
STATUS = _words("status state estado statut stato zustand situacao статус 状态")
STEP = _words(
    "step stage phase task operation op action activity etape etapa schritt fase paso passo phase "
    "tache tarea tarefa doing 步骤 阶段"
)
INFO = _words(
    "info log logs output stdout title titel titre titulo event item result debug news line console"
)
ERROR = _words(
    "error err errors exc exception reason failure fault cause erreur fehler errore erro"
)
#: A key with one of these words may hold a nested payload.
CONTAINER = (
    PROGRESS
    | STATUS
    | _words(
        "data meta detail details info stats counts counter counters update payload job task step "
        "stage phase event body download upload"
    )
)
#: Statuses that add nothing to the state.
GENERIC = _words(
    "processing running progress in_progress inprogress started pending working active busy ok "
    "executing"
)
CELERY = _words("PENDING RECEIVED STARTED PROGRESS RETRY SUCCESS FAILURE REVOKED IGNORED REJECTED")
FAILING = _words("FAILURE RETRY REVOKED FAILED ERROR REJECTED")

NO_NOUN = (
    TOTAL
    | EXTENT
    | INDEX
    | DONE
    | CURRENT
    | LEFT
    | PROGRESS
    | _words("estimate global so far already")
)

CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@lru_cache(maxsize=4096)
def tokens_of(key: str) -> tuple[str, ...]:
    """The words of a key, without accents: "totalFiles" -> total, files."""
    plain = unicodedata.normalize(
        "NFC",
        "".join(
            c
            for c in unicodedata.normalize("NFKD", CAMEL.sub("_", key))
            if not unicodedata.combining(c)
        ),
    )
    return tuple(word for word in re.split(r"[\W_]+", plain.lower()) if word)


def stem(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    return (
        word[:-1]
        if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us"))
        else word
    )


def is_past_participle(word: str) -> bool:
    """Whether it is an English word for finished work: "crawled", "indexed"."""
    return len(word) > 4 and word.endswith("ed") and word not in NOT_DONE
