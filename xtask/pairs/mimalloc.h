// The declarations that the shim needs from mimalloc, for checks of its syntax against several
// versions of libtorch. Builds use mimalloc's own header.
#pragma once

#include <stddef.h>

enum mi_option_t { mi_option_destroy_on_exit, mi_option_purge_delay };

extern "C" {
void* mi_malloc_aligned(size_t size, size_t alignment);
bool mi_is_in_heap_region(const void* block);
void mi_free(void* block);
void mi_option_set(mi_option_t option, long value);
void mi_option_set_default(mi_option_t option, long value);
}
