/* An engine in C: the exact denoiser of a Gaussian whose mean comes from the text. No weights, honest arithmetic.
 *
 * A clean latent is m + 0.5 n. At noise level sigma the network sees x = a (m + 0.5 n) + s e with a = 1/sqrt(1+sigma^2)
 * and s = sigma a, and answers the expected noise e = s (x - a m) / (0.25 a^2 + s^2). YOURS: all of it. */
#include "sd_backend.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FACTOR 8
#define VOCAB 49408
#define MAX_CHANNELS 16

typedef struct {
    uint64_t total;
} device;

typedef struct {
    uint32_t channels;
} model;

typedef struct text {
    uint64_t id;
    float mean[MAX_CHANNELS];
    struct text *next;
} text;

typedef struct {
    uint32_t channels;
    uint64_t next;
    text *texts;
} session;

static int32_t fail(sd_error *error, int32_t code, const char *message) {
    snprintf(error->message, sizeof error->message, "%s", message);
    return code;
}

static int cancelled(const sd_control *control) { return control->cancelled(control->self) != 0; }

static uint32_t score(const sd_device *dev, const char **why) {
    if (dev->kind != SD_CPU) {
        *why = "it knows CPUs only";
        return 0;
    }
    *why = "an example in C that runs anywhere";
    return 1;
}

static int32_t open_device(const sd_device *dev, const sd_param *options, size_t n, void **opened, sd_error *error) {
    (void)options, (void)n;
    device *d = malloc(sizeof *d);
    if (!d) return fail(error, SD_OOM, "no memory for the device");
    d->total = dev->memory;
    *opened = d;
    return SD_OK;
}

static void close_device(void *opened) { free(opened); }

static void memory(void *opened, sd_memory *m) { m->device_total = ((device *)opened)->total; }

/* The config of role `template`: the number of channels. */
static int32_t channels(const sd_model *source, uint32_t *found, sd_error *error) {
    *found = 4;
    for (size_t i = 0; i < source->n_configs; i++) {
        if (strcmp(source->configs[i].key, "template") != 0) continue;
        char *end;
        errno = 0;
        long value = strtol(source->configs[i].value, &end, 10);
        if (errno || end == source->configs[i].value || *end || value < 1 || value > MAX_CHANNELS)
            return fail(error, SD_INVALID, "the config of role `template` must be a number of channels, 1 to 16");
        *found = (uint32_t)value;
    }
    return SD_OK;
}

static int32_t inspect(void *opened, const sd_model *source, sd_need *need, sd_error *error) {
    (void)opened;
    uint32_t c;
    need->weight_bytes = need->peak_bytes = 0;
    return channels(source, &c, error);
}

static int32_t load(void *opened, const sd_model *source, const sd_control *control, void **loaded, sd_error *error) {
    (void)opened;
    uint32_t c;
    int32_t code = channels(source, &c, error);
    if (code) return code;
    for (size_t i = 0; i < source->n_files; i++) {
        if (cancelled(control)) return fail(error, SD_CANCELLED, "cancelled");
        control->progress(control->self, i + 1, source->n_files);
    }
    if (cancelled(control)) return fail(error, SD_CANCELLED, "cancelled");
    model *m = malloc(sizeof *m);
    if (!m) return fail(error, SD_OOM, "no memory for the model");
    m->channels = c;
    *loaded = m;
    return SD_OK;
}

static void unload(void *loaded) { free(loaded); }

static void describe(void *loaded, sd_description *d) {
    d->latent_channels = ((model *)loaded)->channels;
    d->vae_factor = FACTOR;
    d->sample_size = 64;
    d->max_batch = 8;
    d->max_tokens = 77;
    d->hidden_size = 768;
    d->vocab_size = VOCAB;
    d->mixed_batch = 1;
}

static int32_t begin(void *loaded, void **opened, sd_error *error) {
    session *s = calloc(1, sizeof *s);
    if (!s) return fail(error, SD_OOM, "no memory for the session");
    s->channels = ((model *)loaded)->channels;
    s->next = 1;
    *opened = s;
    return SD_OK;
}

static void end(void *opened) {
    session *s = opened;
    while (s->texts) {
        text *gone = s->texts;
        s->texts = gone->next;
        free(gone);
    }
    free(s);
}

static int32_t encode_text(void *opened, const sd_text *in, const sd_control *control, uint64_t *cond, sd_error *error) {
    session *s = opened;
    if (cancelled(control)) return fail(error, SD_CANCELLED, "cancelled");
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < in->n_tokens; i++) {
        if (in->tokens[i] >= VOCAB) return fail(error, SD_INVALID, "a token is outside the vocabulary of 49408");
        uint32_t weight;
        memcpy(&weight, &in->weights[i], sizeof weight);
        hash = (hash ^ in->tokens[i]) * 0x100000001b3u;
        hash = (hash ^ weight) * 0x100000001b3u;
    }
    text *t = calloc(1, sizeof *t);
    if (!t) return fail(error, SD_OOM, "no memory for a text");
    for (uint32_t c = 0; c < s->channels; c++) {
        hash = hash * 6364136223846793005u + 1442695040888963407u;
        t->mean[c] = (float)(hash >> 40) / 8388608.0f - 1.0f;
    }
    t->id = s->next++;
    t->next = s->texts;
    s->texts = t;
    *cond = t->id;
    return SD_OK;
}

static void free_cond(void *opened, uint64_t cond) {
    for (text **at = &((session *)opened)->texts; *at; at = &(*at)->next) {
        if ((*at)->id != cond) continue;
        text *gone = *at;
        *at = gone->next;
        free(gone);
        return;
    }
}

static int32_t predict(void *opened, const sd_tensor *x, const sd_item *items, size_t n, sd_tensor *out,
                       const sd_control *control, sd_error *error) {
    session *s = opened;
    size_t c = x->shape[1], plane = x->shape[2] * x->shape[3];
    if (c != s->channels) return fail(error, SD_INVALID, "the latents have another number of channels");
    const float *in = x->data;
    float *to = out->data;
    for (size_t i = 0; i < n; i++) {
        if (cancelled(control)) return fail(error, SD_CANCELLED, "cancelled");
        const text *t = s->texts;
        while (t && t->id != items[i].cond) t = t->next;
        if (!t) return fail(error, SD_INVALID, "there is no such encoded text");
        double sigma = items[i].sigma, a = 1.0 / sqrt(1.0 + sigma * sigma), noise = sigma * a;
        double gain = noise / (0.25 * a * a + noise * noise);
        for (size_t k = 0; k < c; k++)
            for (size_t p = 0; p < plane; p++) {
                size_t at = (i * c + k) * plane + p;
                to[at] = (float)(gain * (in[at] - a * t->mean[k]));
            }
    }
    return SD_OK;
}

static int32_t decode(void *opened, const sd_tensor *latents, sd_tensor *out, const sd_control *control, sd_error *error) {
    session *s = opened;
    size_t n = latents->shape[0], c = latents->shape[1], h = latents->shape[2], w = latents->shape[3];
    if (c != s->channels || out->shape[0] != n || out->shape[1] != h * FACTOR || out->shape[2] != w * FACTOR ||
        out->shape[3] != 3)
        return fail(error, SD_INVALID, "the latents do not fit the picture");
    const float *in = latents->data;
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t y = 0; y < h * FACTOR; y++) {
            if (cancelled(control)) return fail(error, SD_CANCELLED, "cancelled");
            for (size_t x = 0; x < w * FACTOR; x++)
                for (size_t k = 0; k < 3; k++, at++) {
                    size_t from = k < c ? k : c - 1;
                    float v = 0.5f + in[((i * c + from) * h + y / FACTOR) * w + x / FACTOR] / 8.0f;
                    v = v < 0 ? 0 : v > 1 ? 1 : v;
                    if (out->dtype == SD_U8)
                        ((uint8_t *)out->data)[at] = (uint8_t)(v * 255.0f + 0.5f);
                    else
                        ((float *)out->data)[at] = v;
                }
        }
    return SD_OK;
}

static const sd_backend_table TABLE = {
    .struct_size = sizeof(sd_backend_table),
    .version = SD_BACKEND_C_VERSION,
    .id = "template-c",
    .vendor = "YOURS",
    .engine_version = "0.1.0",
    .test_only = 1,
    .score = score,
    .open = open_device,
    .close = close_device,
    .memory = memory,
    .inspect = inspect,
    .load = load,
    .unload = unload,
    .describe = describe,
    .begin = begin,
    .end = end,
    .encode_text = encode_text,
    .free_cond = free_cond,
    .predict = predict,
    .decode = decode,
    .encode = NULL,
};

const sd_backend_table *sd_backend_c(void) { return &TABLE; }
