/* Choosing backends with a function of your own: a pool's algorithm = "module:name" (docs/options/pools.algorithm.md).
 *
 * The function is called for each request without Python's lock, on the thread that serves all clients of its worker: it must not block, must
 * not call Python, and must be quick. It borrows the context until it returns. fastlb checks the answer: anything but the index of a backend
 * that may be picked is refused, counted (picks_rejected), and weighted_least_connections picks instead.
 *
 * A later version of fastlb appends fields to the context and counts `version` up; those that are here stay what they are.
 */
#ifndef FASTLB_PICKER_H
#define FASTLB_PICKER_H

#include <stdint.h>

#define FASTLB_PICKER_VERSION 1

typedef struct fastlb_pick_context {
    uint32_t version;           /* FASTLB_PICKER_VERSION */
    uint32_t n_backends;        /* at least 1: those of one priority, in the order of the configuration; entries of the arrays below */
    uint32_t n_eligible;        /* at least 1: how many of them may be picked */
    uint32_t attempt;           /* backends that this request has been tried at and that failed */
    uint64_t key;               /* of the pool's hash_key, hashed; the same for all attempts; 0 = none */
    uint64_t random;            /* 64 random bits, others for each call */
    uint64_t now_ms;            /* milliseconds of a clock that never goes back */
    const uint8_t *eligible;    /* 1: up, ready, with a weight, below its cap and not tried by this request; else 0 */
    const uint32_t *weights;    /* as configured */
    const int64_t *in_flight;   /* requests at this backend now, of all workers */
} fastlb_pick_context;

/* The index of a backend: 0 to n_backends - 1, and eligible. */
typedef int32_t (*fastlb_picker)(const fastlb_pick_context *context);

#endif
