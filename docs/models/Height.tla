------------------------------- MODULE Height -------------------------------
(* One height of SimplexH (docs/adr/0031) in full asynchrony.

   A correct validator fills, in each view, a slot N (the value it notarized) and a slot T (the value it finalized,
   or Null), each once. Liars sign everything at any time, so a certificate exists as soon as enough correct
   validators have signed. A correct validator may act on any certificate that exists, or not, at any time:
   every order of delivery, every leader and every time-out is covered.

   Inv is inductive and implies Safety: no two values are ever final. *)

EXTENDS Integers, FiniteSets

CONSTANTS Correct, Liars, Views, Values, None, Null

VARIABLES notarized, ended

vars == <<notarized, ended>>

Quorum == (2 * (Cardinality(Correct) + Cardinality(Liars))) \div 3 + 1

Enough(S) == Cardinality(S) + Cardinality(Liars) >= Quorum

Notarization(v, x) == Enough({p \in Correct : notarized[p][v] = x})

Nullification(v) == Enough({p \in Correct : ended[p][v] = Null})

Finalization(v, x) == Enough({p \in Correct : ended[p][v] = x})

(* R3: a notarization of this very value below, and nullifications of all views between; or of all below. *)
Justified(v, x) ==
  \/ \A u \in 0..(v - 1) : Nullification(u)
  \/ \E u \in 0..(v - 1) :
       /\ Notarization(u, x)
       /\ \A w \in (u + 1)..(v - 1) : Nullification(w)

Init ==
  /\ notarized = [p \in Correct |-> [v \in Views |-> None]]
  /\ ended = [p \in Correct |-> [v \in Views |-> None]]

(* R3 *)
Notarize(p, v, x) ==
  /\ notarized[p][v] = None
  /\ Justified(v, x)
  /\ notarized' = [notarized EXCEPT ![p][v] = x]
  /\ UNCHANGED ended

(* R6 *)
Nullify(p, v) ==
  /\ ended[p][v] = None
  /\ ended' = [ended EXCEPT ![p][v] = Null]
  /\ UNCHANGED notarized

(* R4 *)
Finalize(p, v, x) ==
  /\ ended[p][v] = None
  /\ Notarization(v, x)
  /\ ended' = [ended EXCEPT ![p][v] = x]
  /\ UNCHANGED notarized

Next ==
  \E p \in Correct, v \in Views :
    \/ Nullify(p, v)
    \/ \E x \in Values : Notarize(p, v, x) \/ Finalize(p, v, x)

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ notarized \in [Correct -> [Views -> Values \cup {None}]]
  /\ ended \in [Correct -> [Views -> Values \cup {None, Null}]]

Safety ==
  \A v, w \in Views, x, y \in Values :
    (Finalization(v, x) /\ Finalization(w, y)) => x = y

Inv ==
  /\ TypeOK
  /\ \A p \in Correct, v \in Views, x \in Values : notarized[p][v] = x => Justified(v, x)
  /\ \A p \in Correct, v \in Views, x \in Values : ended[p][v] = x => Notarization(v, x)

THEOREM Spec => []Safety
=============================================================================
