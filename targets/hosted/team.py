"""LLVM IR text of the thread team: the waiting workers, the hand-over of a job, and whole samples per thread.

A template for `targets.spmd`, which fills in the offsets of `fxquant.runtime.abi` and the pointers of one network.
"""

from __future__ import annotations

TEAM = """
; Compute sample %index as thread %tid of %threads, with the arena and the (zeroed) sync words of thread %owner.
define internal void @fxq_sample(ptr %block, i64 %index, i32 %self, i32 %owner, i32 %tid, i32 %threads) nounwind {{
  %run.p = getelementptr i8, ptr %block, i64 {RUN}
  %run = load ptr, ptr %run.p
  %weights.p = getelementptr i8, ptr %block, i64 {WEIGHTS}
  %weights = load ptr, ptr %weights.p
  %mine = call ptr @fxq_record(ptr %block, i32 %self)
  %shared = call ptr @fxq_record(ptr %block, i32 %owner)
  %scratch.p = getelementptr i8, ptr %mine, i64 {SCRATCH}
  %scratch = load ptr, ptr %scratch.p
  %arena.p = getelementptr i8, ptr %shared, i64 {ARENA}
  %arena = load ptr, ptr %arena.p
  %sync.p = getelementptr i8, ptr %shared, i64 {SYNC}
  %sync = load ptr, ptr %sync.p
{load_ports}
  call void %run(i32 %tid, i32 %threads, ptr %sync, ptr %arena, ptr %scratch, ptr %weights{pass_ports})
  ret void
}}

define internal ptr @fxq_record(ptr %block, i32 %tid) nounwind {{
  %wide = zext i32 %tid to i64
  %offset = mul i64 %wide, {THREAD_BYTES}
  %start = add i64 %offset, {records}
  %record = getelementptr i8, ptr %block, i64 %start
  ret ptr %record
}}

define internal void @fxq_zero_sync(ptr %block, i32 %tid) nounwind {{
  %record = call ptr @fxq_record(ptr %block, i32 %tid)
  %sync.p = getelementptr i8, ptr %record, i64 {SYNC}
  %sync = load ptr, ptr %sync.p
  %bytes.p = getelementptr i8, ptr %block, i64 {SYNC_BYTES}
  %bytes = load i64, ptr %bytes.p
  call void @llvm.memset.p0.i64(ptr %sync, i8 0, i64 %bytes, i1 false)
  ret void
}}

; One thread's part of a job: its share of one sample, or whole samples until none are left.
define internal void @fxq_work(ptr %block, i32 %self) nounwind {{
entry:
  %split.p = getelementptr i8, ptr %block, i64 {SPLIT}
  %split = load i32, ptr %split.p
  %whole = icmp ne i32 %split, 0
  br i1 %whole, label %take, label %together
together:
  %index.p = getelementptr i8, ptr %block, i64 {INDEX}
  %index = load i32, ptr %index.p
  %index.64 = zext i32 %index to i64
  %threads.p = getelementptr i8, ptr %block, i64 {THREADS}
  %threads = load i32, ptr %threads.p
  call void @fxq_sample(ptr %block, i64 %index.64, i32 %self, i32 0, i32 %self, i32 %threads)
  ret void
take:
  %next.p = getelementptr i8, ptr %block, i64 {NEXT}
  %taken = call i32 @fxq_grab(ptr %next.p)
  %taken.64 = zext i32 %taken to i64
  %dealt.p = getelementptr i8, ptr %block, i64 {DEALT}
  %dealt = load i64, ptr %dealt.p
  %left = icmp ult i64 %taken.64, %dealt
  br i1 %left, label %alone, label %done
alone:
  call void @fxq_zero_sync(ptr %block, i32 %self)
  call void @fxq_sample(ptr %block, i64 %taken.64, i32 %self, i32 %self, i32 0, i32 1)
  br label %take
done:
  ret void
}}

; Wake the sleepers among threads %first to %end - 1. Whoever turns `asleep` from 1 to 0 settles the semaphore, so that
; no wake-up is lost or doubled.
define internal void @fxq_rouse(ptr %block, i32 %first, i32 %end) nounwind {{
entry:
  %threads.p = getelementptr i8, ptr %block, i64 {THREADS}
  %threads = load i32, ptr %threads.p
  %short = icmp slt i32 %end, %threads
  %stop = select i1 %short, i32 %end, i32 %threads
  br label %each
each:
  %tid = phi i32 [ %first, %entry ], [ %tid.next, %following ]
  %more = icmp slt i32 %tid, %stop
  br i1 %more, label %look, label %done
look:
  %record = call ptr @fxq_record(ptr %block, i32 %tid)
  %asleep = getelementptr i8, ptr %record, i64 {ASLEEP}
  %was = atomicrmw xchg ptr %asleep, i32 0 seq_cst
  %sleeping = icmp eq i32 %was, 1
  br i1 %sleeping, label %wake, label %following
wake:
  %semaphore = getelementptr i8, ptr %record, i64 {SEMAPHORE}
  %posted = call i32 @sem_post(ptr %semaphore)
  br label %following
following:
  %tid.next = add i32 %tid, 1
  br label %each
done:
  ret void
}}

; Thread %self wakes two others, which wake two others each.
define internal void @fxq_rouse_next(ptr %block, i32 %self) nounwind {{
  %twice = shl i32 %self, 1
  %first = add i32 %twice, 1
  %end = add i32 %twice, 3
  call void @fxq_rouse(ptr %block, i32 %first, i32 %end)
  ret void
}}

; Open the gate, work, close it, and wait for those inside. Workers that come too late are not waited for.
define internal void @fxq_job(ptr %block) nounwind {{
  %gate = getelementptr i8, ptr %block, i64 {GATE}
  store atomic i32 {OPEN}, ptr %gate release, align 4
  %epoch = getelementptr i8, ptr %block, i64 {EPOCH}
  %started = atomicrmw add ptr %epoch, i32 1 seq_cst
  call void @fxq_rouse_next(ptr %block, i32 0)
  call void @fxq_work(ptr %block, i32 0)
  %closed = atomicrmw sub ptr %gate, i32 {OPEN} acq_rel
  call void @fxq_ir_join(ptr %gate, i32 0)
  ret void
}}

; Take part in the current job, if there still is one.
define internal void @fxq_enter(ptr %block, i32 %self) nounwind {{
entry:
  %gate = getelementptr i8, ptr %block, i64 {GATE}
  br label %look
look:
  %now = load atomic i32, ptr %gate monotonic, align 4
  %open = icmp uge i32 %now, {OPEN}
  br i1 %open, label %knock, label %done
knock:
  %inside = add i32 %now, 1
  %pair = cmpxchg ptr %gate, i32 %now, i32 %inside acquire monotonic
  %entered = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %entered, label %work, label %look
work:
  call void @fxq_rouse_next(ptr %block, i32 %self)
  call void @fxq_work(ptr %block, i32 %self)
  %left = atomicrmw sub ptr %gate, i32 1 release
  ret void
done:
  ret void
}}

; Deal out whole samples as long as there is one for every thread, then do the rest one by one with all threads on each.
define void @fxq_ir_launch(ptr %block) nounwind {{
entry:
  %threads.p = getelementptr i8, ptr %block, i64 {THREADS}
  %threads = load i32, ptr %threads.p
  %threads.64 = zext i32 %threads to i64
  %samples.p = getelementptr i8, ptr %block, i64 {SAMPLES}
  %samples = load i64, ptr %samples.p
  %rest = urem i64 %samples, %threads.64
  %dealt = sub i64 %samples, %rest
  %dealt.p = getelementptr i8, ptr %block, i64 {DEALT}
  store i64 %dealt, ptr %dealt.p
  %split.p = getelementptr i8, ptr %block, i64 {SPLIT}
  %many = icmp ne i64 %dealt, 0
  br i1 %many, label %apart, label %rest.first
apart:
  %next = getelementptr i8, ptr %block, i64 {NEXT}
  store i32 0, ptr %next
  store i32 1, ptr %split.p
  call void @fxq_job(ptr %block)
  br label %rest.first
rest.first:
  store i32 0, ptr %split.p
  br label %each
each:
  %index = phi i64 [ %dealt, %rest.first ], [ %index.next, %together ]
  %left = icmp ult i64 %index, %samples
  br i1 %left, label %together, label %done
together:
  %index.p = getelementptr i8, ptr %block, i64 {INDEX}
  %index.32 = trunc i64 %index to i32
  store i32 %index.32, ptr %index.p
  call void @fxq_zero_sync(ptr %block, i32 0)
  call void @fxq_job(ptr %block)
  %index.next = add i64 %index, 1
  br label %each
done:
  ret void
}}

; Wait for a job other than %seen: {spins} pauses, then say so and sleep. A signal ends sem_wait early: ask again.
define internal i32 @fxq_next_job(ptr %block, i32 %self, i32 %seen) nounwind {{
entry:
  %epoch = getelementptr i8, ptr %block, i64 {EPOCH}
  %record = call ptr @fxq_record(ptr %block, i32 %self)
  %asleep = getelementptr i8, ptr %record, i64 {ASLEEP}
  %semaphore = getelementptr i8, ptr %record, i64 {SEMAPHORE}
  br label %look
look:
  %waited = phi i32 [ 0, %entry ], [ %more, %wait ]
  %now = load atomic i32, ptr %epoch acquire, align 4
  %new = icmp ne i32 %now, %seen
  br i1 %new, label %done, label %wait
wait:
  {pause}
  %more = add i32 %waited, 1
  %patient = icmp ult i32 %more, {spins}
  br i1 %patient, label %look, label %announce
announce:
  %was.awake = atomicrmw xchg ptr %asleep, i32 1 seq_cst
  %again = load atomic i32, ptr %epoch seq_cst, align 4
  %late = icmp ne i32 %again, %seen
  br i1 %late, label %cancel, label %sleep
cancel:
  %still = atomicrmw xchg ptr %asleep, i32 0 seq_cst
  %unclaimed = icmp eq i32 %still, 1
  br i1 %unclaimed, label %done, label %sleep
sleep:
  %result = call i32 @sem_wait(ptr %semaphore)
  %woken = icmp eq i32 %result, 0
  br i1 %woken, label %done, label %sleep
done:
  %job = load atomic i32, ptr %epoch acquire, align 4
  ret i32 %job
}}

; End the workers: they find a job whose block says stop.
define void @fxq_ir_stop(ptr %block) nounwind {{
  %stop = getelementptr i8, ptr %block, i64 {STOP}
  store i32 1, ptr %stop
  %epoch = getelementptr i8, ptr %block, i64 {EPOCH}
  %started = atomicrmw add ptr %epoch, i32 1 seq_cst
  call void @fxq_rouse(ptr %block, i32 1, i32 {OPEN})
  ret void
}}

define void @fxq_ir_serve(ptr %block, i32 %self) nounwind {{
entry:
  br label %again
again:
  %seen = phi i32 [ 0, %entry ], [ %job, %enter ]
  %job = call i32 @fxq_next_job(ptr %block, i32 %self, i32 %seen)
  %stop.p = getelementptr i8, ptr %block, i64 {STOP}
  %stop = load i32, ptr %stop.p
  %ended = icmp ne i32 %stop, 0
  br i1 %ended, label %done, label %enter
enter:
  call void @fxq_enter(ptr %block, i32 %self)
  br label %again
done:
  ret void
}}
"""
