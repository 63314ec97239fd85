/* The interface of an engine in C. The shim in Rust beside it (src/) makes a plugin of it.
 *
 * Growth: each struct begins with its own size, and new members only come at its end. Set `struct_size` to sizeof; read
 * no member of a struct from the worker that lies beyond the size it tells. A function that you do not offer is NULL.
 *
 * Numbers are little-endian, tensors contiguous and row-major. Latents are float NCHW in sampler space (after the VAE's
 * scaling), pictures NHWC RGB, as bytes or as float 0-1. What a call borrows is valid until it returns.
 *
 * Threads: `memory`, `inspect` and `load` may be called from any thread, also while another call runs. One thread at a
 * time uses a session. No function may throw, longjmp or exit. */
#ifndef SD_BACKEND_H
#define SD_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SD_BACKEND_C_VERSION 1u

/* What a function answers: 0, or why it failed. */
enum sd_code {
    SD_OK = 0,
    SD_CANCELLED = 1,    /* the caller asked to stop */
    SD_INVALID = 3,      /* an argument is wrong: a shape, a size, an unknown id */
    SD_NOT_FOUND = 5,    /* a file or key that the model needs is missing */
    SD_OOM = 8,          /* not enough memory; the object stays usable */
    SD_UNSUPPORTED = 12, /* not offered, or an unknown architecture */
    SD_INTERNAL = 13,    /* a fault of the engine */
    SD_DATA_LOSS = 15,   /* a file's content is broken */
    SD_DEVICE_LOST = 64  /* the device needs a new process */
};

enum sd_dtype { SD_F32 = 0, SD_U8 = 3 };
enum sd_kind { SD_CPU = 0, SD_GPU = 1, SD_IGPU = 2, SD_NPU = 3 };

/* Filled by a function that fails. */
typedef struct sd_error {
    uint32_t struct_size;
    char message[256]; /* one sentence for users; it names no path */
    char detail[1024]; /* for the operator's log */
} sd_error;

typedef struct sd_param {
    const char *key;
    const char *value;
} sd_param;

/* A device as the worker found it. */
typedef struct sd_device {
    uint32_t struct_size;
    uint32_t kind; /* sd_kind */
    uint32_t index;
    uint32_t vendor_id; /* PCI, or 0 */
    uint32_t device_id;
    uint64_t memory; /* bytes; 0 = unknown */
    const char *name;
    const char *features; /* separated by spaces: "avx2 fma" */
} sd_device;

typedef struct sd_memory {
    uint32_t struct_size;
    uint64_t device_total, device_free, weights, scratch; /* bytes; 0 = unknown */
} sd_memory;

/* Where a model lies: files (role and absolute path of a safetensors file), configs (role and JSON text), options. */
typedef struct sd_model {
    uint32_t struct_size;
    const char *name;
    const sd_param *files;
    size_t n_files;
    const sd_param *configs;
    size_t n_configs;
    const sd_param *options;
    size_t n_options;
} sd_model;

typedef struct sd_need {
    uint32_t struct_size;
    uint64_t weight_bytes, peak_bytes;
} sd_need;

/* What a loaded model is. One text encoder in this version of the table. */
typedef struct sd_description {
    uint32_t struct_size;
    uint32_t latent_channels;
    uint32_t vae_factor;  /* pixels per latent cell */
    uint32_t sample_size; /* side of the training pictures in cells; 0 = unknown */
    uint32_t max_batch;
    uint32_t max_tokens; /* of a chunk */
    uint32_t hidden_size;
    uint32_t vocab_size;
    uint32_t mixed_batch; /* 0 when all items of a batch must share a timestep */
} sd_description;

/* The caller's hand on a call. */
typedef struct sd_control {
    uint32_t struct_size;
    const void *self;
    int32_t (*cancelled)(const void *self);
    void (*progress)(const void *self, uint64_t done, uint64_t total);
} sd_control;

typedef struct sd_text {
    uint32_t struct_size;
    uint32_t chunk_length;
    const uint32_t *tokens;
    const float *weights; /* one for each token; 1 = unchanged */
    size_t n_tokens;      /* chunks * chunk_length */
    const sd_param *params;
    size_t n_params;
} sd_text;

typedef struct sd_tensor {
    uint32_t struct_size;
    uint32_t dtype; /* sd_dtype */
    uint64_t shape[4];
    void *data; /* to read only, where it is an input */
} sd_tensor;

typedef struct sd_item {
    uint32_t struct_size;
    uint64_t cond; /* a text */
    float timestep, sigma;
} sd_item;

/* The engine. Handles are the engine's own pointers. */
typedef struct sd_backend_table {
    uint32_t struct_size;
    uint32_t version; /* SD_BACKEND_C_VERSION */
    const char *id;   /* 1 to 32 of a-z, 0-9 and - */
    const char *vendor;
    const char *engine_version;
    uint32_t test_only; /* 1 keeps it out of the automatic choice */

    /* Claims a device without touching it: 0 = cannot. `why` is one sentence and stays valid for ever. */
    uint32_t (*score)(const sd_device *device, const char **why);
    int32_t (*open)(const sd_device *device, const sd_param *options, size_t n_options, void **opened, sd_error *error);
    void (*close)(void *opened);
    void (*memory)(void *opened, sd_memory *memory);
    int32_t (*inspect)(void *opened, const sd_model *model, sd_need *need, sd_error *error);
    int32_t (*load)(void *opened, const sd_model *model, const sd_control *control, void **loaded, sd_error *error);
    void (*unload)(void *loaded);
    void (*describe)(void *loaded, sd_description *description);

    /* A session; the model outlives it. */
    int32_t (*begin)(void *loaded, void **session, sd_error *error);
    void (*end)(void *session);
    int32_t (*encode_text)(void *session, const sd_text *text, const sd_control *control, uint64_t *cond, sd_error *error);
    void (*free_cond)(void *session, uint64_t cond);
    int32_t (*predict)(void *session, const sd_tensor *x, const sd_item *items, size_t n_items, sd_tensor *out,
                       const sd_control *control, sd_error *error);
    int32_t (*decode)(void *session, const sd_tensor *latents, sd_tensor *out, const sd_control *control, sd_error *error);
    /* Optional. `out` is [n, 2c, h, w]: means, then deviations. */
    int32_t (*encode)(void *session, const sd_tensor *image, sd_tensor *out, const sd_control *control, sd_error *error);
} sd_backend_table;

/* The one function that the engine defines. The table stays valid for ever. */
const sd_backend_table *sd_backend_c(void);

#ifdef __cplusplus
}
#endif

#endif
