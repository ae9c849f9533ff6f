;; A plugin that keeps every row, in the text format of WebAssembly. Tests replace a comment with an attack.
;; `open` answers with the memory at 4000, `process` at 4096, `describe` at 3900.
(module
  (import "[export]sluicebox:processor/processor@1.0.0" "[resource-new]session"
    (func $new (param i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 100) "attacker1.0.0{}")
  ;; start

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    ;; realloc
    (i32.const 8192))

  (func (export "sluicebox:processor/processor@1.0.0#describe") (result i32)
    ;; describe
    (i32.store (i32.const 3900) (i32.const 100)) (i32.store (i32.const 3904) (i32.const 8))
    (i32.store (i32.const 3908) (i32.const 108)) (i32.store (i32.const 3912) (i32.const 5))
    (i32.store (i32.const 3916) (i32.const 100)) (i32.store (i32.const 3920) (i32.const 8))
    (i32.store (i32.const 3924) (i32.const 113)) (i32.store (i32.const 3928) (i32.const 2))
    (i32.const 3900))
  (func (export "cabi_post_sluicebox:processor/processor@1.0.0#describe") (param i32)
    ;; after describe
  )

  (func (export "sluicebox:processor/processor@1.0.0#[static]session.open")
    (param i32 i32 i32 i32) (result i32)
    (i32.store (i32.const 4000) (i32.const 0))
    (i32.store (i32.const 4004) (call $new (i32.const 1)))
    (i32.const 4000))

  (func (export "sluicebox:processor/processor@1.0.0#[method]session.process")
    (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
    ;; process
    (i32.const 4096))
  (func (export "cabi_post_sluicebox:processor/processor@1.0.0#[method]session.process") (param i32)
    ;; after process
  )
)
